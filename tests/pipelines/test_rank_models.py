"""Ranking models by K examples: the worked example, what is compared with what, and models that fail."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rank_models import ModelScores, Ranked, rank, rank_text, score_all
from scorers.models import loading
from scorers.models.loading import LoadedModel
from scorers.models.settings import ModelSettings
from tests.draws import draws
from tests.scorers.toy_models import CONTEXT, write_model

NAN = float("nan")
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside."


def scores(
    model: str,
    loss: Sequence[float],
    tokens: Sequence[int],
    top1: float = 0.5,
    entropy: float = 1.0,
    status: str = "overflow",
) -> ModelScores:
    """Of examples that have `status` where the loss is NaN."""
    known = np.isfinite(loss)
    return ModelScores(
        model,
        tuple("ok" if own else status for own in known),
        np.array(tokens, np.int64),
        np.array(loss, np.float64),
        np.where(known, top1, np.nan),
        np.where(known, entropy, np.nan),
    )


def one(scored: Sequence[ModelScores], sizes: Sequence[int], model: str) -> Ranked:
    return next(line for line in rank(scored, np.array(sizes, np.int64))[0] if line.model == model)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that load, `flat` and `tied`, and two that do not, `broken` and `empty`."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "flat")
    write_model(folder / "tied", tied=True)
    shutil.copytree(folder / "flat", folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"nonsense")
    (folder / "empty").mkdir()
    return folder


def examples_file(folder: Path, *answers: str) -> str:
    path = folder / "shots.jsonl"
    rows = [{"question": f"Question {at}?", "answer": answer} for at, answer in enumerate(answers)]
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return str(path)


# --- examples ---------------------------------------------------------------------------------------------


def test_worked_example() -> None:
    # Two answers of 2 and 6 tokens, 8 and 12 bytes: 2 * 1.0 + 6 * 2.0 = 14 nats over 8 tokens and 20 bytes.
    (line,), compared = rank([scores("a", [1.0, 2.0], [2, 6])], np.array([8, 12]))
    assert compared == 2
    assert line.loss == pytest.approx(14 / 8)
    assert line.bits_per_byte == pytest.approx(14 / math.log(2) / 20)
    assert line.perplexity == pytest.approx((math.exp(1) + math.exp(2)) / 2)
    assert (line.top1, line.entropy, line.scored) == (0.5, 1.0, 2)


def test_a_tokenizer_of_longer_tokens_is_not_punished_for_them() -> None:
    # Both find the text equally likely, 12 nats; one reads it as 12 tokens, the other as 4.
    short, long = scores("short", [1.0], [12]), scores("long", [3.0], [4])
    assert one([short, long], [20], "short").bits_per_byte == one([short, long], [20], "long").bits_per_byte
    better = scores("better", [2.9], [4])
    lines, _ = rank([short, long, better], np.array([20]))
    assert [line.model for line in lines] == ["better", "long", "short"]  # equal ones by name


def test_models_are_compared_on_the_examples_that_all_of_them_scored() -> None:
    easy = scores("skips the hard one", [1.0, NAN], [4, 4])
    other = scores("scores both", [0.9, 9.0], [4, 4])
    lines, compared = rank([easy, other], np.array([10, 90]))
    assert compared == 1
    assert lines[0].bits_per_byte == pytest.approx(4 * 0.9 / math.log(2) / 10)
    assert [(line.model, line.loss, line.scored) for line in lines] == [
        ("scores both", 0.9, 2),
        ("skips the hard one", 1.0, 1),
    ]


def test_models_without_a_common_example_cannot_be_compared() -> None:
    scored = [scores("a", [1.0, NAN], [4, 4]), scores("b", [NAN, 1.0], [4, 4])]
    with pytest.raises(ValueError, match=r"a scored 1 of 2 \(1 overflow\); b scored 1 of 2"):
        rank(scored, np.array([10, 10]))


def test_a_perplexity_beyond_all_numbers_is_infinite_and_the_rest_is_given() -> None:
    line = one([scores("a", [800.0], [1])], [4], "a")
    assert line.perplexity == math.inf
    assert line.bits_per_byte == pytest.approx(800 / math.log(2) / 4)


def test_a_model_that_fails_does_not_stop_the_others() -> None:
    def score(model: str) -> ModelScores:
        if model == "loud":
            raise RuntimeError("out of\n memory  " + "x" * 400)
        return scores(model, [NAN if model == "mute" else 1.0], [3], status="all_truncated")

    scored, failed = score_all(["loud", "a", "mute", "a"], score)
    assert [own.model for own in scored] == ["a"]
    assert failed["mute"] == "scored none of the 1 examples (1 all_truncated)"
    assert failed["loud"].startswith("out of memory xxx")
    assert len(failed["loud"]) < 310
    with pytest.raises(ValueError, match="no model can be ranked:\n  mute: scored none"):
        score_all(["mute"], score)


# --- with models ------------------------------------------------------------------------------------------


def test_the_table_ranks_what_loads_and_says_why_the_rest_does_not(folders: Path, tmp_path: Path) -> None:
    path = examples_file(tmp_path, "Paris is the capital of France.", "five", "é ü 漢字")
    names = [str(folders / name) for name in ("broken", "flat", "empty", "tied", "flat")]
    text = rank_text(path, names, device="cpu")
    lines = text.splitlines()
    assert lines[0] == f"{path}: 2 models on 3 of 3 examples, best first"
    assert lines[2].split() == ["model", "bits/byte", "loss", "perplexity", "top-1", "entropy", "scored"]
    table = [line.split() for line in lines[3:5]]
    assert {row[0] for row in table} == {names[1], names[3]}
    assert float(table[0][1]) <= float(table[1][1])
    assert all(row[-1] == "3/3" for row in table)
    assert "models of one tokenizer only" in text
    assert f"not ranked: {names[2]}: model.path: {names[2]!r} has no *.safetensors weights" in text
    assert f"not ranked: {names[0]}: " in text


def test_the_numbers_are_those_of_the_model_less_the_end_of_the_turn(folders: Path, tmp_path: Path) -> None:
    answers = ["Paris is the capital of France.", "five"]
    path, model = examples_file(tmp_path, *answers), str(folders / "flat")
    loaded = loading.load_model(ModelSettings(path=model, device="cpu"))
    total, tokens, per_row = 0.0, 0, []
    for at, answer in enumerate(answers):
        prompt = f"<s><|user|>\nQuestion {at}?</s>\n<|assistant|>\n"
        given_ids, answer_ids = (
            loaded.renderer.tokenizer(part, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            for part in (prompt, answer)
        )
        ids = torch.cat([given_ids, answer_ids])
        with torch.inference_mode():
            states = loaded.network.body(input_ids=ids[None]).last_hidden_state[0]
            log_p = loaded.network.logits(states).log_softmax(-1)
        nll = -log_p[range(len(given_ids) - 1, len(ids) - 1), answer_ids]
        total, tokens = total + float(nll.sum()), tokens + len(nll)
        per_row.append(math.exp(float(nll.mean())))
    row = rank_text(path, [model], device="cpu").splitlines()[3].split()
    size = sum(len(answer) for answer in answers)
    assert float(row[1]) == pytest.approx(total / math.log(2) / size, abs=1e-4)
    assert float(row[2]) == pytest.approx(total / tokens, abs=1e-4)
    assert float(row[3]) == pytest.approx(np.mean(per_row), rel=1e-3)


def test_examples_too_long_for_a_model_are_said_and_count_for_none(folders: Path, tmp_path: Path) -> None:
    path = examples_file(tmp_path, "five", "a " * CONTEXT)
    text = rank_text(path, [str(folders / "flat")], device="cpu")
    assert text.startswith(f"{path}: 1 model on 1 of 2 examples, best first")
    assert f"without scores of {folders / 'flat'}: 1 overflow; such examples count for no model" in text
    with pytest.raises(ValueError, match="scored none of the 2 examples .2 overflow"):
        rank_text(path, [str(folders / "flat")], device="cpu", max_tokens=8)


def test_one_model_is_in_memory_at_a_time(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading.load_model
    before: list[weakref.ref[LoadedModel]] = []

    def watched(settings: ModelSettings) -> LoadedModel:
        assert all(reference() is None for reference in before)
        model = load(settings)
        before.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "load_model", watched)
    rank_text(
        examples_file(tmp_path, "five"), [str(folders / name) for name in ("flat", "tied")], device="cpu"
    )
    assert len(before) == 2


def test_examples_that_cannot_be_read_are_refused(folders: Path, tmp_path: Path) -> None:
    path = examples_file(tmp_path, "five", "")
    with pytest.raises(ValueError, match=r"row 2 of the examples is unreadable .*; 1 of 2 rows are"):
        rank_text(path, [str(folders / "flat")])
    with pytest.raises(ValueError, match="nothing"):
        rank_text(str(tmp_path / "nothing.jsonl"), [str(folders / "flat")])


@pytest.mark.realdata
def test_a_trained_model_goes_before_a_random_one(folders: Path, tmp_path: Path, realdata: Path) -> None:
    trained = str(realdata / "models" / "stories260K")
    text = rank_text(examples_file(tmp_path, STORY), [str(folders / "flat"), trained], device="cpu")
    first, second = (line.split() for line in text.splitlines()[3:5])
    assert first[0] == trained
    assert float(first[1]) < 1 < float(second[1])


# --- invariants -------------------------------------------------------------------------------------------

TABLES = st.integers(1, 5).flatmap(
    lambda count: st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, NAN]), min_size=count, max_size=count),
            st.lists(st.integers(1, 9), min_size=count, max_size=count),
        ),
        min_size=1,
        max_size=4,
    )
)


@draws(60)
@given(TABLES, st.data())
def test_the_order_of_models_and_of_examples_changes_no_line(
    table: list[tuple[list[float], list[int]]], data: st.DataObject
) -> None:
    count = len(table[0][0])
    if not any(all(math.isfinite(loss[at]) for loss, _ in table) for at in range(count)):
        return
    order = data.draw(st.permutations(range(count)))
    models = data.draw(st.permutations(range(len(table))))
    sizes = np.arange(1, count + 1)
    lines, compared = rank([scores(f"m{at}", *own) for at, own in enumerate(table)], sizes)
    mixed = [
        scores(f"m{at}", [table[at][0][i] for i in order], [table[at][1][i] for i in order]) for at in models
    ]
    again, _ = rank(mixed, sizes[list(order)])
    assert [line.model for line in again] == [line.model for line in lines]
    assert [line.bits_per_byte for line in lines] == sorted(line.bits_per_byte for line in lines)
    assert 1 <= compared <= min(line.scored for line in lines)
    for line, other in zip(lines, again, strict=True):
        assert other.loss == pytest.approx(line.loss)
        assert line.perplexity >= 1 or line.perplexity == pytest.approx(1)


@draws(60)
@given(
    st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
def test_with_one_tokenizer_the_order_is_that_of_the_loss_per_token(
    losses: list[list[float]], tokens: list[int]
) -> None:
    lines, _ = rank([scores(f"m{at}", own, tokens) for at, own in enumerate(losses)], np.array([9, 9, 9]))
    assert [line.loss for line in lines] == pytest.approx(sorted(line.loss for line in lines))
