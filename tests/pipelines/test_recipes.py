"""The recipes of published pipelines: each is valid, says what a real run would use, and runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.progress import Progress
from pipelines.published import RECIPES, recipe_names, write_recipe
from pipelines.recipe import parse_recipe
from pipelines.run import Finished, run
from pipelines.runner import choose_runner
from tests.pipelines.corpus import MODEL, rows_of

NAMES = [
    "cherry_ifd", "d4", "dart_prop2diff", "deita_diversity", "donod", "got_d", "grape", "kshot", "points",
    "q_tuning", "rho1", "scalediff", "superfiltering", "verdict",
]  # fmt: skip


def plain(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    return loaded


def test_there_is_a_recipe_for_each_published_pipeline() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_says_what_a_real_run_would_use(name: str) -> None:
    recipe = parse_recipe(plain(name), name)
    text = (RECIPES / f"{name}.yaml").read_text("utf-8")
    assert recipe.name == name.replace("_", "-")
    assert "real run" in text
    assert name == "verdict" or "arXiv" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_recipe_is_written_with_the_file_it_needs_and_replaces_nothing(tmp_path: Path) -> None:
    written = write_recipe("scalediff", tmp_path / "mine.yaml")
    assert [path.name for path in written] == ["mine.yaml", "scalediff.jinja", "recipe.schema.json"]
    text = (RECIPES / "scalediff.yaml").read_text("utf-8")
    assert (tmp_path / "mine.yaml").read_text("utf-8").split("\n", 1)[1] == text
    with pytest.raises(ValueError, match="is there already"):
        write_recipe("q_tuning", tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match="no recipe 'qtuning'; did you mean 'q_tuning'"):
        write_recipe("qtuning", tmp_path / "other.yaml")


def real(name: str, data: Path, work: Path) -> dict[str, Any]:
    """The recipe with real data and the small models in the place of what it names."""
    recipe = plain(name)
    gsm8k, task = data / "gsm8k" / "train.jsonl", work / "task.jsonl"
    task.write_text("".join(gsm8k.read_text("utf-8").splitlines(keepends=True)[:20]), "utf-8")
    alpaca = {"path": str(data / "alpaca" / "alpaca_data.json.gz"), "source": "alpaca"}
    recipe["inputs"] = [alpaca, {"path": str(gsm8k), "source": "gsm8k"}]
    if name == "grape":
        evaluated = sorted((data / "alpaca_eval").glob("*.json*"))[:3]
        recipe["inputs"] = [{"path": str(path), "source": path.stem} for path in evaluated]
    if name == "dart_prop2diff":
        recipe["inputs"] = [
            {"path": str(path), "source": path.stem.partition(".")[0]}
            for path in sorted((data / "gsm8k_answers").glob("abel*"))
        ]
    for key, model in (("model", MODEL), ("embed", data / "models" / "potion-base-4m-int8")):
        if key in recipe:
            recipe[key]["path"] = str(model)
    if "model" in recipe:
        recipe["model"]["max_tokens"] = 512
    if name == "scalediff":
        recipe["model"] = {
            "path": str(thinking(work)), "max_tokens": 512, "chat_template": str(RECIPES / "scalediff.jinja"),
        }  # fmt: skip
    for role in recipe.get("models", {}):
        recipe["models"][role] = {"path": str(other(work)), "max_tokens": 512}
    for step in recipe["select"]:
        for options in step.values():
            options |= {"target": str(task)} if "target" in options else {}
            options |= {"keep_examples": 40} if "keep_examples" in options else {}
            options |= {"keep_tokens": 20_000} if "keep_tokens" in options else {}
    return recipe


def other(work: Path) -> Path:
    """The bundled model as an earlier checkpoint might be: one layer less sure."""
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    model.get_output_embeddings().weight.data *= 0.9
    shutil.copytree(MODEL, work / "reference")
    model.save_pretrained(work / "reference")
    return work / "reference"


def thinking(work: Path) -> Path:
    """The bundled model with tokens that open and close a thought."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(work / "thinking")
    model.save_pretrained(work / "thinking")
    return work / "thinking"


def run_real(name: str, data: Path, work: Path) -> Finished:
    recipe = parse_recipe(real(name, data, work))
    return run(recipe, work / "out", choose_runner(1, []), Progress(), limit=150)


@pytest.mark.realdata
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_real_data(name: str, realdata: Path, tmp_path: Path) -> None:
    finished = run_real(name, realdata, tmp_path)
    counts = finished.manifest["counts"]
    assert 0 < counts["kept"] < counts["read"] - counts["bad"]
    assert counts["kept"] == len(rows_of(finished.out, "train"))
    if name == "verdict":
        assert len(rows_of(finished.out, "suspects")) > 0
    if name in ("q_tuning", "rho1", "verdict"):
        assert finished.manifest["tokens"]["trained"] < finished.manifest["tokens"]["kept"]


@pytest.mark.realdata
def test_dart_keeps_right_answers_by_how_hard_their_question_is(realdata: Path, tmp_path: Path) -> None:
    kept = rows_of(run_real("dart_prop2diff", realdata, tmp_path).out, "train")
    assert {row["correct"] for row in kept} == {1.0}
    assert all(json.loads(row["extra"])["result"] for row in kept)  # the published label says the same
    assert max(row["fail_rate"] for row in kept) > 0
    assert all(row["selected_k"] <= row["target_k"] for row in kept)
