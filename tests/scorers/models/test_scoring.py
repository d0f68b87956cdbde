# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorers.base import Column, Need, Output, Outputs, RowValues, Scorer
from scorers.catalog import SCORERS, in_one_pass
from scorers.models import scoring
from scorers.models.columns import scores_schema
from scorers.models.layout import attention_mask
from scorers.models.loading import LoadedModel, load_model
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import PAIRS, examples, pair, tokenizer, write_model

ALL = tuple(  # that one model with any template can compute
    name for name in in_one_pass(SCORERS) if not any(need.after for need in SCORERS[name].needs)
)
MANY = [pair("Name a colour " * (i % 7), "red, green " * (1 + i % 11) + str(i)) for i in range(60)]


def reference(folder: Path, conversations: list[Any]) -> dict[str, list[float]]:
    """Scores by plain transformers: one row at a time, all logits, float64 from the first operation on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)  # rows this small only make threads wait for one another
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def statistics(context: list[int], response: list[int]) -> tuple[float, ...]:
        with torch.inference_mode():
            result = model(input_ids=torch.tensor([context + response]), output_hidden_states=True)
        logits, hidden = (
            values[0, len(context) - 1 : -1] for values in (result.logits, result.hidden_states[-1])
        )
        logprobs = torch.log_softmax(logits, dim=-1)
        labels = torch.tensor(response)
        entropy = -(logprobs.exp() * logprobs).sum(-1).mean().item()
        top1 = (logits.argmax(-1) == labels).double().mean().item()
        at = torch.arange(len(response))
        errors = logprobs.exp()
        gap = ((errors * logits).sum(-1) - logits[at, labels]).mean().item()
        errors[at, labels] -= 1
        gradient = (errors.T @ hidden / len(response)).norm().item()
        el2n = errors.norm(dim=-1).mean().item()
        chosen = logprobs[at, labels]
        dft = (chosen.exp().mean().item(), (chosen.exp() < 0.1).double().mean().item())
        return -chosen.mean().item(), entropy, top1, el2n, gap, gradient, *dft

    columns: dict[str, list[float]] = {name: [] for name in scores_schema(ALL).names[6:]}
    for turns in conversations:
        if tokenizer.chat_template:
            dialogue = [{"role": t["role"], "content": t["content"]} for t in turns]
            prompt = tokenizer.apply_chat_template(dialogue[:-1], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(dialogue, tokenize=False)
            context = ids(prompt)
            response = ids(whole)[len(context) :]
            header = [tokenizer.bos_token_id, *ids("<|assistant|>\n")]
        else:
            prompt = "".join(f"### {t['role'].capitalize()}:\n{t['content']}\n\n" for t in turns[:-1])
            prompt += "### Assistant:\n"
            response = [*ids(prompt + turns[-1]["content"])[len(ids(prompt)) :], tokenizer.eos_token_id]
            context = [tokenizer.bos_token_id, *ids(prompt)]
            header = [tokenizer.bos_token_id, *ids("### Assistant:\n")]
        loss, entropy, top1, *rest = statistics(context, response)
        direct, *_ = statistics(header, response)
        whole = statistics(context[:1], context[1:] + response)[:2]
        ifd = direct, loss / direct, np.exp(loss - direct)
        row = (loss, np.exp(loss), entropy, top1, *ifd, *whole, *rest)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(float(value))
    return columns


def column(scores: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """A score column, null as NaN."""
    return np.asarray(scores.column(name).to_numpy(zero_copy_only=False))


def assert_agree(scores: pa.RecordBatch, expected: dict[str, list[float]], tolerance: float) -> None:
    assert scores.column("status").to_pylist() == ["ok"] * scores.num_rows
    for name, values in expected.items():
        np.testing.assert_allclose(column(scores, name), values, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
def test_scores_agree_with_plain_transformers_in_float64(tmp_path: Path, tied: bool, template: bool) -> None:
    folder = write_model(tmp_path, tied=tied, **({} if template else {"template": None}))
    model = load_model(ModelSettings(path=str(folder), device="cpu", batch_tokens=128))
    scores, _ = score_examples(model, examples(PAIRS), ALL)
    assert_agree(scores, reference(folder, PAIRS), 1e-4)


@pytest.mark.realdata
def test_scores_of_real_rows_by_a_real_model_agree_with_plain_transformers(realdata: Path) -> None:
    folder = realdata / "models" / "stories260K"
    with gzip.open(realdata / "alpaca" / "alpaca_data.json.gz") as file:
        rows = json.load(file)[:400:20]
    conversations = [pair(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in rows]
    model = load_model(ModelSettings(path=str(folder), device="cpu"))
    scores, _ = score_examples(model, examples(conversations), ALL, threads=2)
    ok = [at for at, status in enumerate(scores.column("status").to_pylist()) if status == "ok"]
    assert len(ok) > 15
    kept = scores.take(pa.array(ok))
    assert_agree(kept, reference(folder, [conversations[at] for at in ok]), 1e-4)


def test_a_score_does_not_depend_on_the_rest_of_the_batch(toy: LoadedModel) -> None:
    together, _ = score_examples(toy, examples(PAIRS), ALL)
    for at in range(len(PAIRS)):
        alone, _ = score_examples(toy, examples(PAIRS).slice(at, 1), ALL)
        for name in together.schema.names[6:]:
            assert together.column(name)[at].as_py() == pytest.approx(alone.column(name)[0].as_py(), rel=1e-5)


@pytest.mark.parametrize("threads", [2, 4])
def test_any_number_of_threads_gives_the_same_bytes(toy: LoadedModel, threads: int) -> None:
    small = replace_batch_tokens(toy, 96)
    one, _ = score_examples(small, examples(MANY), ALL, store_tokens=True, threads=1)
    more, _ = score_examples(small, examples(MANY), ALL, store_tokens=True, threads=threads)
    assert one.serialize().to_pybytes() == more.serialize().to_pybytes()


def test_the_callers_torch_threads_change_no_byte_and_are_left_as_they_were(toy: LoadedModel) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(score_examples(toy, examples(MANY), ALL, threads=2)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0].serialize().to_pybytes() == results[1].serialize().to_pybytes()


def replace_batch_tokens(model: LoadedModel, tokens: int) -> LoadedModel:
    return LoadedModel(model.settings, model.network, model.renderer, tokens)


def test_a_kept_overflow_scores_the_same_tokens_in_both_views(toy_folder: Path) -> None:
    settings = ModelSettings(path=str(toy_folder), device="cpu", max_tokens=40, on_overflow="keep")
    scores, _ = score_examples(
        load_model(settings), examples([pair("Hi", "word " * 50)]), ALL, store_tokens=True
    )
    (row,) = scores.to_pylist()
    assert (row["status"], row["truncated"]) == ("ok", True)
    assert row["prompt_tokens"] + row["response_tokens"] == 40
    assert len(row["input_ids"]) == 40
    assert len(row["response_at"]) == len(row["token_nll"]) == row["response_tokens"]
    assert row["ifd_loss"] == pytest.approx(row["loss"] / row["direct_loss"])


def test_stored_token_losses_are_those_of_the_score(toy: LoadedModel) -> None:
    scores, _ = score_examples(toy, examples(PAIRS), ["loss"], store_tokens=True)
    for row in scores.to_pylist():
        assert row["loss"] == pytest.approx(np.mean(np.array(row["token_nll"], dtype=np.float64)), rel=1e-12)
        assert len(row["input_ids"]) == row["prompt_tokens"] + row["response_tokens"]
        assert row["response_at"] == list(range(row["prompt_tokens"], len(row["input_ids"])))


def test_outputs_are_stored_when_asked_for_beside_the_tokens_they_belong_to(toy: LoadedModel) -> None:
    stored: tuple[Output, ...] = ("rank", "entropy", "hidden_mean")
    scores, _ = score_examples(toy, examples([*PAIRS, pair("Hi", "")]), ["entropy"], store_outputs=stored)
    assert scores.schema == scores_schema(["entropy"], store_outputs=stored)
    assert scores.schema.field("token_entropy").type == pa.list_(pa.float16())
    *rows, empty = scores.to_pylist()
    assert [empty[name] for name in ("input_ids", "token_rank", "hidden_mean")] == [None] * 3
    for row in rows:
        assert np.mean(row["token_entropy"]) == pytest.approx(row["entropy"], rel=1e-3)
        assert len(row["token_rank"]) == len(row["response_at"])
        assert len(row["hidden_mean"]) == 32


def test_with_loss_on_all_every_answer_counts_and_with_score_end_off_no_end(toy_folder: Path) -> None:
    turns = [*pair("Name a colour", "red"), *pair("Another", "blue and green")]
    loss = {}
    for loss_on in ("last", "all"):
        for score_end in (True, False):
            settings = ModelSettings(
                path=str(toy_folder),
                device="cpu",
                loss_on=loss_on,
                score_end=score_end,
            )
            scores, _ = score_examples(load_model(settings), examples([turns]), ["loss"], store_tokens=True)
            (row,) = scores.to_pylist()
            assert row["response_tokens"] == len(row["token_nll"])
            loss[loss_on, score_end] = row
    ends = 2  # "</s>" and the line break after it
    nll = np.array(loss["all", True]["token_nll"])
    assert loss["all", True]["loss"] == pytest.approx(nll.mean(), rel=1e-6)
    assert loss["all", False]["token_nll"] == loss["all", True]["token_nll"]
    last = len(loss["last", True]["token_nll"])
    first = len(nll) - last
    assert loss["last", True]["loss"] == pytest.approx(nll[first:].mean(), rel=1e-5)
    answers = np.r_[nll[: first - ends], nll[first:-ends]]
    assert loss["all", False]["loss"] == pytest.approx(answers.mean(), rel=1e-6)


def test_a_scorer_can_read_gradients_hidden_states_and_the_next_token(
    toy: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = (
        Need("conditional", "next_logprob", ("b", "a")),
        Need("conditional", "grad_norm"),
        Need("direct", "hidden_last"),
    )

    def score(outputs: Outputs) -> dict[str, RowValues]:
        chosen, norm, last = (outputs.rows[need] for need in needs)
        assert chosen.shape[1] == 2
        assert norm.shape[1] == 1
        assert last.shape[1] == 32
        table = np.column_stack([chosen, norm, last[:, 0]]).astype(np.float64)
        return dict(zip("wxyz", table.T, strict=True))

    columns = tuple(Column(name, "", -np.inf, np.inf, "neither", "a test") for name in "wxyz")
    monkeypatch.setitem(SCORERS, "test", Scorer("test", columns, needs, score, "here"))
    scores, _ = score_examples(toy, examples([pair("Say", "a"), pair("Hi", "")]), ["test"])
    whole = np.exp([scores.column(name)[0].as_py() for name in "wx"])
    assert all(0 < share < 1 for share in whole)
    assert whole[0] != whole[1]
    assert scores.column("y")[0].as_py() > 0
    assert all(scores.column(name)[1].as_py() is None for name in "wxyz")
    broken_need = replace(SCORERS["test"], needs=(Need("conditional", "next_logprob", ("b a b",)),))
    monkeypatch.setitem(SCORERS, "test", broken_need)
    with pytest.raises(ValueError, match="'b a b' is . tokens for this model's tokenizer"):
        score_examples(toy, examples(PAIRS), ["test"])


def test_a_scorer_that_compares_models_needs_a_recipe(toy: LoadedModel) -> None:
    with pytest.raises(ValueError, match="rho1 compares the target with its reference"):
        score_examples(toy, examples(PAIRS), ["loss", "rho1"])


def test_each_view_runs_once_and_only_when_a_scorer_needs_it(toy: LoadedModel) -> None:
    _, one = score_examples(toy, examples(PAIRS), ["loss", "entropy", "top1_agreement"])
    scores, both = score_examples(toy, examples(PAIRS), ["loss", "ifd"])
    _, three = score_examples(toy, examples(PAIRS), ["ifd", "whole_text"])
    rows = scores.to_pylist()
    assert three["tokens"] == both["tokens"] + one["tokens"]
    assert one["tokens"] == sum(row["prompt_tokens"] + row["response_tokens"] - 1 for row in rows)
    header = len(tokenizer()("<|assistant|>\n", add_special_tokens=False)["input_ids"]) + 1
    assert both["tokens"] == one["tokens"] + sum(header + row["response_tokens"] - 1 for row in rows)
    assert both["padded_tokens"] >= both["tokens"]
    assert both["response_tokens"] == sum(row["response_tokens"] for row in rows)


def test_rival_answers_are_scored_with_one_reading_of_their_prompt(toy: LoadedModel) -> None:
    question = "What is the capital of France, and of which country is Madrid the capital?"
    rivals = [pair(question, "red " * n) for n in (3, 1, 5)]
    batch = examples([rivals[0], PAIRS[0], rivals[1], PAIRS[1], rivals[2]])
    apart = LoadedModel(
        toy.settings, replace(toy.network, shares_context=False), toy.renderer, toy.batch_tokens
    )
    one, shared = score_examples(toy, batch, ALL, store_tokens=True)
    two, alone = score_examples(apart, batch, ALL, store_tokens=True)
    assert alone["tokens"] - shared["tokens"] == 2 * one.column("prompt_tokens")[0].as_py()
    for name in one.schema.names[6:-3]:
        np.testing.assert_allclose(column(one, name), column(two, name), rtol=1e-5, err_msg=name)


def test_columns_are_those_of_the_schema_for_any_choice_of_scorers(toy: LoadedModel) -> None:
    for names in (["entropy"], ["ifd"], []):
        scores, _ = score_examples(toy, examples(PAIRS[:1]), names)
        assert scores.schema == scores_schema(names)


def test_rows_tokenised_some_at_a_time_get_the_same_scores(
    toy: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = [*MANY, pair("Hi", ""), *PAIRS]
    whole, stats = score_examples(toy, examples(conversations), ALL, store_tokens=True)
    monkeypatch.setattr(scoring, "_ROWS_AHEAD", 25)
    # anything but "cpu" takes the way of a GPU; the arithmetic stays on the CPU
    elsewhere = replace(toy.network, device=torch.device("meta"))
    monkeypatch.setattr("scorers.models.forward._to_device", lambda array, _: torch.from_numpy(array))
    monkeypatch.setattr(
        "scorers.models.forward.attention_mask",
        lambda answers, dtype, _: attention_mask(answers, dtype, torch.device("cpu")),
    )
    away = replace(toy, network=elsewhere)
    parts, part_stats = score_examples(away, examples(conversations), ALL, store_tokens=True)
    assert part_stats["rows"] == stats["rows"] == len(conversations)
    assert part_stats["tokens"] >= stats["tokens"]  # rivals in different parts read their prompt twice
    assert parts.column("status").equals(whole.column("status"))
    assert parts.column("input_ids").equals(whole.column("input_ids"))
    for name in whole.schema.names[6:-3]:
        np.testing.assert_allclose(column(parts, name), column(whole, name), rtol=1e-5, err_msg=name)


def test_a_slice_scores_as_the_rows_it_shows(toy: LoadedModel) -> None:
    batch = examples(PAIRS)
    scores, _ = score_examples(toy, batch.slice(2, 2), ["loss"])
    assert scores.column("id").to_pylist() == ["toy:2", "toy:3"]


def test_progress_adds_up_to_all_rows_and_tokens(toy: LoadedModel) -> None:
    calls: list[tuple[int, int]] = []
    conversations = [*MANY, pair("Hi", "")]
    small = replace_batch_tokens(toy, 96)
    _, stats = score_examples(small, examples(conversations), ALL, on_rows=lambda *args: calls.append(args))
    assert len(calls) > 5
    assert sum(rows for rows, _ in calls) == len(conversations)
    assert sum(tokens for _, tokens in calls) == stats["tokens"]


def test_bfloat16_is_close_to_float32(toy: LoadedModel, toy_folder: Path) -> None:
    half = load_model(ModelSettings(path=str(toy_folder), device="cpu", dtype="bfloat16"))
    exact, _ = score_examples(toy, examples(MANY), ["loss", "entropy"])
    scores, _ = score_examples(half, examples(MANY), ["loss", "entropy"])
    for name in ("loss", "entropy"):  # 8 bits of mantissa, logits up to 10
        np.testing.assert_allclose(column(scores, name), column(exact, name), atol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(toy: LoadedModel, toy_folder: Path) -> None:
    exact, _ = score_examples(toy, examples(MANY), ALL)
    on_gpu = load_model(ModelSettings(path=str(toy_folder), device="cuda", dtype="float32"))
    scores, _ = score_examples(on_gpu, examples(MANY), ALL)
    for name in ("loss", "entropy", "direct_loss"):
        np.testing.assert_allclose(column(scores, name), column(exact, name), rtol=1e-3)
