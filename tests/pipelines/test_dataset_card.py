from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from connectors.manifest import read_manifest
from pipelines.dataset_card import write_card
from pipelines.selectors.catalog import SELECTORS
from tests.pipelines.fake_run import SCRIPT, make_run


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def header_of(card: str) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return header


def snippets_of(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)


def run_without_training(snippet: str) -> dict[str, Any]:
    """The names that a snippet of the card makes before it builds a trainer."""
    names: dict[str, Any] = {}
    lines = snippet.split("trainer = ")[0].replace("from trl import SFTConfig, SFTTrainer\n", "")
    exec(lines, names)  # noqa: S102 - what the card tells people to run is what is tested
    return names


def test_the_header_points_to_the_training_files(tmp_path: Path) -> None:
    card = write_card(make_run(tmp_path)).read_text("utf-8")
    header = header_of(card)
    assert header["configs"][0] == {
        "config_name": "default",
        "data_files": [{"split": "train", "path": "train/*.parquet"}],
    }
    assert header["size_categories"] == ["n<1K"]
    assert header["pretty_name"] == f"toy {SCRIPT}"


def test_the_folder_loads_as_the_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_card(make_run(tmp_path)).read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    kept = read_manifest(tmp_path)["counts"]["kept"]
    rows = run_without_training(snippets_of(card)[0])["rows"]
    assert rows.num_rows == kept
    assert rows.column_names == pq.read_schema(next((tmp_path / "train").iterdir())).names
    folder = datasets.load_dataset(str(tmp_path), split="train")
    assert folder["id"] == rows["id"]
    dropped = datasets.load_dataset(str(tmp_path), "dropped", split="train")
    assert dropped.num_rows == read_manifest(tmp_path)["counts"]["dropped"]


def test_the_training_snippet_makes_prompt_and_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = write_card(make_run(tmp_path)).read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    rows = run_without_training(snippets_of(card)[1])["rows"]
    assert rows.column_names == ["prompt", "completion", "tools"]
    first = rows[0]
    assert [turn["role"] for turn in first["prompt"]] == ["user"]
    assert [turn["role"] for turn in first["completion"]] == ["assistant"]


def test_pruned_tokens_are_explained_and_used(tmp_path: Path) -> None:
    card = write_card(make_run(tmp_path, labels=True)).read_text("utf-8")
    assert '.select_columns(["input_ids", "labels"])' in card
    assert "-100 elsewhere" in card
    plain = write_card(make_run(tmp_path / "plain")).read_text("utf-8")
    assert "input_ids" not in plain


def test_counts_sources_and_methods_are_on_the_card(tmp_path: Path) -> None:
    card = write_card(make_run(tmp_path)).read_text("utf-8")
    counts = read_manifest(tmp_path)["counts"]
    assert f"| read | {counts['read']} |" in card
    assert f"| kept | {counts['kept']} |" in card
    table = re.search(r"## Counts\n\n.*?\n\n", card, re.S)
    assert table is not None
    numbers = [int(number) for number in re.findall(r"\| (\d+) \|", table.group())]
    assert numbers[0] == sum(numbers[1:])
    assert "https://arxiv.org/abs/2509.23873" in card
    assert "2308.12032" in card
    assert "10.1109/SEQUEN.1997.666900" in card


def test_every_selector_is_named_with_its_source(tmp_path: Path) -> None:
    manifest = read_manifest(make_run(tmp_path))
    manifest["recipe"]["select"] = [{name: {}} for name in SELECTORS]
    assert "no source on record" not in write_card(tmp_path, manifest).read_text("utf-8")


def test_text_of_a_recipe_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    manifest = read_manifest(make_run(tmp_path))
    manifest["recipe"]["name"] = "a\n````\n# broken out"
    manifest["name"] = "x\n---\n# y"
    card = write_card(tmp_path, manifest).read_text("utf-8")
    assert header_of(card)["pretty_name"] == "x --- # y"
    assert "\n# y" not in card.split("---\n", 2)[2]
    assert SCRIPT not in card.split("---\n", 2)[2]
    assert "`````yaml\n" in card
    assert "chat &lt;b&gt;bold&lt;/b&gt; \\| pipe" in card


def test_a_run_without_a_model_names_none(tmp_path: Path) -> None:
    card = write_card(make_run(tmp_path, scored=False)).read_text("utf-8")
    assert "Scores and choice hold for the model" not in card
    assert "tokens)" not in card


def test_an_empty_training_set_still_has_a_card_and_a_header(tmp_path: Path) -> None:
    make_run(tmp_path, keep=False)
    assert "0 of 300 rows" in write_card(tmp_path).read_text("utf-8")
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    card = write_card(tmp_path).read_text("utf-8")
    assert [config["config_name"] for config in header_of(card)["configs"]] == ["dropped"]
    assert "No row was kept." in card


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        write_card(tmp_path)
