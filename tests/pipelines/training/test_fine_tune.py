"""Fine-tuning from rows: masks, weights, seeds, and what is refused."""

# ruff: noqa: ANN401 - transformers is untyped

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from connectors.examples import message
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from pipelines.training.fine_tune import (
    TrainingSettings,
    fine_tune,
    fine_tuned_text,
    learning_rate,
    train_model,
)
from pipelines.training.steps import steps_of
from pipelines.training.token_losses import IGNORED
from pipelines.training.token_rows import NOTHING_TO_TRAIN_ON, TOKEN_ROWS, TokenRows, token_rows
from pipelines.training.trainee import Trainee, load_trainee, row_losses
from pipelines.training.training_set import read_training_set
from scorers.models.settings import ModelSettings
from tests.pipelines.corpus import MODEL, recipe, rows_of, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and accelerate say of a machine without a GPU

SETTINGS = TrainingSettings(steps=3, step_tokens=40, learning_rate=1e-2)


def conversations(count: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{i}",
            "messages": [message("user", f"What is {i} plus {i}?"), message("assistant", f"It is {2 * i}.")],
            "tools": None,
        }
        for i in range(count)
    ]


def trainee() -> Trainee:
    return load_trainee(ModelSettings(path=str(MODEL)))


def rows_for(one: Trainee, count: int = 8) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = token_rows(
        pa.Table.from_pylist(conversations(count)), one.renderer
    ).table.to_pylist()
    return made


def trained(rows: list[dict[str, Any]], settings: TrainingSettings = SETTINGS) -> dict[str, torch.Tensor]:
    one = trainee()
    train_model(one, token_rows(pa.Table.from_pylist(rows, TOKEN_ROWS), one.renderer), settings, Progress())
    return dict(one.model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_from_raw_data_to_a_trained_model_whose_loss_fell(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=60)
    done = run(parse_recipe(recipe(tmp_path / "data")), tmp_path / "out", RunnerChoice(), Progress())
    settings = TrainingSettings(steps=6, step_tokens=256)
    tuned = fine_tune(done.out, None, tmp_path / "tuned", settings)
    assert tuned.loss_after < tuned.loss_before - 0.05
    rows = rows_of(done.out, "train")
    assert tuned.rows == len(rows)
    assert tuned.trained_tokens == sum(label != IGNORED for row in rows for label in row["labels"])
    assert tuned.trained_tokens < sum(row["response_tokens"] for row in rows)  # tokens were pruned
    again = load_trainee(ModelSettings(path=str(tmp_path / "tuned")))  # safetensors, tokenizer and all
    assert not same(dict(again.model.state_dict()), dict(trainee().model.state_dict()))
    assert "winnow evaluate" in fine_tuned_text(tuned)


def test_a_row_is_rendered_as_it_was_scored(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=40)
    changes = {"select": [{"random": {"keep": 0.5}}], "emit": {"tokens": "always"}}
    done = run(
        parse_recipe(recipe(tmp_path / "data", **changes)), tmp_path / "out", RunnerChoice(), Progress()
    )
    table, chosen = read_training_set(done.out, None)
    one = load_trainee(chosen)
    scored = token_rows(table, one.renderer).table
    rendered = token_rows(table.drop_columns(["input_ids", "labels"]), one.renderer).table
    for name in ("input_ids", "labels"):
        assert scored[name].to_pylist() == rendered[name].to_pylist()


def test_what_is_under_a_mask_has_no_influence() -> None:
    one = trainee()
    rows = rows_for(one)
    masked = [row | {"labels": [*row["labels"][:-2], IGNORED, IGNORED]} for row in rows]
    other = [row | {"input_ids": [*row["input_ids"][:-1], 7]} for row in masked]  # no label is behind it
    assert same(trained(masked), trained(other))
    assert not same(trained(masked), trained(rows))


def test_a_weight_of_0_is_the_row_left_out() -> None:
    rows = rows_for(trainee())
    without = trained(rows[:5])
    assert same(without, trained([*rows[:5], *(row | {"weight": 0.0} for row in rows[5:])]))
    zeros = [row | {"token_weights": [0.0] * len(row["input_ids"])} for row in rows[5:]]
    assert same(without, trained(rows[:5] + zeros))
    assert not same(without, trained(rows))


def test_token_weights_of_0_are_a_mask_and_half_weights_pull_half() -> None:
    rows = rows_for(trainee())
    weighed = [row | {"token_weights": [*[1.0] * (len(row["labels"]) - 2), 0.0, 0.0]} for row in rows]
    masked = [row | {"labels": [*row["labels"][:-2], IGNORED, IGNORED]} for row in rows]
    assert same(trained(weighed), trained(masked))
    assert not same(trained(rows), trained([rows[0] | {"weight": 0.5}, *rows[1:]]))


def test_the_size_of_passes_does_not_change_the_gradient() -> None:
    rows = rows_for(trainee())
    one = trained(rows, TrainingSettings(steps=2, step_tokens=60, learning_rate=1e-3, pass_tokens=40))
    other = trained(rows, TrainingSettings(steps=2, step_tokens=60, learning_rate=1e-3))
    assert not same(one, dict(trainee().model.state_dict()))
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name], atol=2e-5, rtol=1e-3)


def test_one_seed_gives_one_model_and_another_seed_another() -> None:
    rows = rows_for(trainee())
    settings = TrainingSettings(steps=3, step_tokens=20, learning_rate=1e-2, seed=1)
    assert same(trained(rows), trained(rows))
    assert not same(
        trained(rows, settings), trained(rows, TrainingSettings(3, step_tokens=20, learning_rate=1e-2))
    )


def test_losses_are_those_of_each_row_alone() -> None:
    one = trainee()
    rows = token_rows(pa.Table.from_pylist(conversations()), one.renderer)
    sums, counted = row_losses(one, rows)
    for at, row in enumerate(rows.table.to_pylist()):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_p = one.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        label = torch.tensor(row["labels"])[1:]
        chosen = log_p[torch.arange(len(label)), label.clamp(min=0)][label != IGNORED]
        assert sums[at] == pytest.approx(-chosen.sum().item(), rel=1e-4)
        assert counted[at] == len(chosen)


def test_rows_that_cannot_be_trained_on_are_counted_with_the_reason() -> None:
    one = trainee()
    rows = rows_for(one)
    rows[0]["input_ids"], rows[0]["labels"] = [5] * 600, [5] * 600
    rows[1]["weight"] = 0.0
    rows[2]["labels"] = [IGNORED] * len(rows[2]["labels"])
    kept = token_rows(pa.Table.from_pylist(rows, TOKEN_ROWS), one.renderer)
    assert kept.left_out == {"longer than 512 tokens": 1, NOTHING_TO_TRAIN_ON: 2}
    assert kept.first[NOTHING_TO_TRAIN_ON] == "r1"
    assert kept.table["id"].to_pylist() == [f"r{i}" for i in range(3, 8)]
    empty = conversations(2)
    empty[1]["messages"] = [message("user", "Say nothing."), message("assistant", " ")]
    assert token_rows(pa.Table.from_pylist(empty), one.renderer).left_out == {"empty_response": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [1]}, "1 labels for"),
        ({"token_weights": [1.0]}, "1 token_weights for"),
        ({"weight": -1.0}, "a weight is negative or not finite"),
        ({"weight": float("nan")}, "a weight is negative or not finite"),
        ({"input_ids": [1, 9999], "labels": [1, 9999]}, "token id 9999 is outside the model's 2,048"),
        ({"input_ids": [1, 2, 3], "labels": [2, 3, 4]}, "labels are not shifted"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    one = trainee()
    table = pa.Table.from_pylist([rows_for(one)[0] | change], TOKEN_ROWS)
    with pytest.raises(ValueError, match=said):
        token_rows(table, one.renderer)


def test_an_export_trains_as_its_run_does(tmp_path: Path) -> None:
    one = trainee()
    pq.write_table(pa.Table.from_pylist(rows_for(one), TOKEN_ROWS), tmp_path / "rows.parquet")
    tuned = fine_tune(tmp_path / "rows.parquet", str(MODEL), tmp_path / "tuned", SETTINGS)
    assert same(trained(rows_for(one)), load_file(tmp_path / "tuned" / "model.safetensors") | _tied(tmp_path))
    assert tuned.rows == 8


def _tied(folder: Path) -> dict[str, torch.Tensor]:
    """The output layer, which is the embeddings and is stored once."""
    stored = load_file(folder / "tuned" / "model.safetensors")
    return {"lm_head.weight": stored["model.embed_tokens.weight"]}


def test_masks_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=40)
    done = run(parse_recipe(recipe(tmp_path / "data")), tmp_path / "out", RunnerChoice(), Progress())
    other = tmp_path / "other"
    other.mkdir()
    for file in MODEL.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = (other / "chat_template.jinja").read_text("utf-8")
    (other / "chat_template.jinja").write_text(text.replace("<|im_start|>", "<|im_start|> "), "utf-8")
    with pytest.raises(ValueError, match="its masks cannot be applied"):
        fine_tune(done.out, str(other), tmp_path / "tuned", SETTINGS)
    assert not (tmp_path / "tuned").exists()


def test_missing_things_are_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.Table.from_pylist(conversations())
    with pytest.raises(ValueError, match="give --model MODEL"):
        fine_tune(table, None, tmp_path / "tuned")
    with pytest.raises(ValueError, match="no run and no Parquet file"):
        fine_tune(tmp_path / "nothing", str(MODEL), tmp_path / "tuned")
    with pytest.raises(ValueError, match="no row to train on: it holds no row at all"):
        fine_tune(table.slice(0, 0), str(MODEL), tmp_path / "tuned")
    with pytest.raises(ValueError, match="wanted: id, and either"):
        fine_tune(pa.table({"id": ["a"], "text": ["b"]}), str(MODEL), tmp_path / "tuned")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(ValueError, match="holds files that no export wrote"):
        fine_tune(table, str(MODEL), tmp_path / "taken")
    real = builtins.__import__

    def without_trl(name: str, *args: Any, **options: Any) -> Any:
        if name == "trl":
            raise ModuleNotFoundError("No module named 'trl'", name="trl")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_trl)
    with pytest.raises(ImportError, match=r"trl is not installed: pip install 'winnow\[train\]'"):
        fine_tune(table, str(MODEL), tmp_path / "tuned")


@pytest.mark.parametrize("change", [{"steps": 0}, {"epochs": -1.0}, {"learning_rate": float("inf")}])
def test_settings_that_train_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a number above 0 is needed"):
        TrainingSettings(**change)


def test_the_learning_rate_falls_with_the_size_of_the_model() -> None:
    def sized(parameters: int) -> Any:
        return torch.nn.Linear(parameters // 10, 10, bias=False, device="meta")

    rates = [
        learning_rate(TrainingSettings(), sized(count)) for count in (10**5, 10**6, 135 * 10**6, 17 * 10**8)
    ]
    assert rates == [1e-3, 1e-3, 8.6e-5, 2.4e-5]
    assert learning_rate(TrainingSettings(learning_rate=0.5), sized(10)) == 0.5


def test_every_row_is_seen_in_the_order_of_the_steps() -> None:
    one = trainee()
    rows = token_rows(pa.Table.from_pylist(conversations()), one.renderer)
    steps = train_model(one, rows, SETTINGS, Progress())
    assert steps == steps_of(rows.trained, 3, 40, 0)
    assert isinstance(rows.take(np.array([0])), TokenRows)
