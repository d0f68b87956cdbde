"""Which files an input of a recipe means: folders, globs, Hugging Face data sets, remote places."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.readers import InputSpec, find_files, read_examples, read_rows
from tests.connectors.files import (
    GOOD,
    ROWS,
    answers,
    as_jsonl,
    as_parquet,
    counts,
    only,
    written,
)


def test_a_folder_is_searched_for_data_files_only(tmp_path: Path) -> None:
    passed_over = [
        "README.json",
        "LICENSE",
        "notes.txt",
        ".hidden.jsonl",
        "_tmp/x.jsonl",
        "dataset_info.json",
    ]
    for name in ["b.jsonl", "sub/a.json", "c.JSONL.gz", ".git/x.json", *passed_over]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    found = find_files(InputSpec(path="."), tmp_path)
    assert [file.name for file in found] == ["b.jsonl", "c.JSONL.gz", "sub/a.json"]


def test_a_glob_takes_what_it_matches_and_names_files_from_its_folder(tmp_path: Path) -> None:
    for name in ("d/x/1.txt", "d/y/2.txt", "d/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    found = find_files(InputSpec(path="d/*/*.txt"), tmp_path)
    assert [(file.source, file.name, file.kind) for file in found] == [
        ("d", "x/1.txt", "jsonl"),
        ("d", "y/2.txt", "jsonl"),
    ]
    assert [file.name for file in find_files(InputSpec(path="d/**/*.txt"), tmp_path)] == [
        "3.txt",
        "x/1.txt",
        "y/2.txt",
    ]
    assert find_files(InputSpec(path=str(tmp_path / "d/*/*.txt")), Path("/"))[0].name == "x/1.txt"


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"path": "data/train.jsonl.gz"}, "train"),
        ({"path": "data/gsm8k/*.jsonl"}, "gsm8k"),
        ({"path": "data/gsm8k/"}, "gsm8k"),
        ({"path": "*.jsonl"}, "input"),
        ({"path": "my data.v2.json"}, "my-data.v2"),
        ({"dataset": "openai/gsm8k"}, "gsm8k"),
        ({"path": "x.jsonl", "source": "given"}, "given"),
    ],
)
def test_the_source_is_named_after_the_path(spec: dict[str, Any], source: str) -> None:
    assert InputSpec(**spec).source_name == source


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.jsonl", "there is no file or folder"),
        ("*.nope", "no file matches"),
        ("empty", "nothing to read in the folder"),
    ],
)
def test_nothing_to_read_is_an_error_that_says_where(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        find_files(InputSpec(path=path), tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "ZIP archive"),
        (b"\x80\x04\x95", "pickle"),
        ("hé".encode("utf-16"), "UTF-16"),
        (b"BZh9", "bzip2"),
    ],
)
def test_a_kind_of_file_that_is_not_read_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, "x.jsonl", content)


def test_a_strange_file_among_others_is_one_bad_row_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl())
    (tmp_path / "b.jsonl").write_bytes(b"PK\x03\x04rest")
    files = find_files(InputSpec(path=str(tmp_path)), tmp_path)
    assert all(item.kind == "example" for item in read_examples(files[0]))
    [item] = read_examples(files[1])
    assert (item.kind, item.row["reason"], item.row["row"]) == ("bad", "unsupported file", None)
    assert "ZIP archive" in item.row["detail"]


def test_a_first_line_that_only_looks_like_utf_16_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\n" + as_jsonl())
    [file] = find_files(InputSpec(path="a.jsonl"), tmp_path)
    kinds = [item.kind for item in read_examples(file)]
    assert kinds == ["bad"] + ["example"] * (len(kinds) - 1)
    assert len(kinds) > 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "exactly one of path"),
        ({"path": "x", "dataset": "y"}, "exactly one of path"),
        ({"path": "x", "format": "alpacca"}, "did you mean 'alpaca'"),
        ({"path": "x", "fields": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"path": "x", "revision": "main"}, "on the hub"),
        ({"dataset": "x", "split": "train[:10]"}, "slices are not read"),
        ({"path": "x", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_input_entry_says_what_is_wrong(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InputSpec(**spec)


def test_stated_format_and_fields_reach_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"frage": "q", "antwort": "a", "output": "x"}\n')
    assert answers(only(path, fields={"prompt": "frage", "response": "antwort"})) == ["a"]
    path.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    assert answers(only(path, pairs="both")) == ["a", "b"]
    assert [item.row["id"][-8:] for item in read_examples(only(path, pairs="both"))] == [
        "1/chosen",
        "rejected",
    ]


def test_a_beam_filesystem_is_read_like_a_folder(tmp_path: Path) -> None:
    from apache_beam.io.localfilesystem import LocalFileSystem

    class Remote(LocalFileSystem):
        """Serves tmp_path as remote://."""

        @classmethod
        def scheme(cls) -> str:
            return "remote"

        def match(self, patterns: list[str], limits: list[int | None] | None = None) -> Any:  # noqa: ANN401 - Beam is untyped
            results = super().match([self._local(pattern) for pattern in patterns], limits)
            for metadata in (metadata for result in results for metadata in result.metadata_list):
                metadata.path = metadata.path.replace(f"{tmp_path}/", "remote://")
            return results

        def open(self, path: str, *args: Any, **how: Any) -> Any:  # noqa: ANN401 - Beam is untyped
            return super().open(self._local(path), *args, **how)

        def _local(self, path: str) -> str:
            return path.replace("remote://", f"{tmp_path}/")

    for name, content in {"d/a.jsonl.gz": gzip.compress(as_jsonl()), "d/b.parquet": as_parquet()}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for path in ("remote://d", "remote://d/*"):
        found = find_files(InputSpec(path=path), Path())
        assert [(file.source, file.name) for file in found] == [("d", "a.jsonl.gz"), ("d", "b.parquet")]
        assert [counts(file) for file in found] == [{"example": len(ROWS)}] * 2
    with pytest.raises(ValueError, match="nothing to read there"):
        find_files(InputSpec(path="remote://none"), Path())
    del Remote


# Hugging Face data sets


def save(path: Path, *splits: str) -> None:
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    if splits:
        datasets.DatasetDict({split: table for split in splits}).save_to_disk(str(path))
    else:
        table.save_to_disk(str(path), num_shards=2)


def test_a_saved_dataset_is_read_shard_by_shard(tmp_path: Path) -> None:
    save(tmp_path / "d")
    found = find_files(InputSpec(path="d"), tmp_path)
    assert [file.name for file in found] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [row for file in found for _, row, _ in read_rows(file)] == ROWS
    with pytest.raises(ValueError, match="without splits"):
        find_files(InputSpec(path="d", split="train"), tmp_path)


def test_splits_of_a_saved_dataset_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path / "d", "train", "test")
    assert [file.name for file in find_files(InputSpec(path="d", split="train"), tmp_path)] == [
        "train/data-00000-of-00001.arrow"
    ]
    assert len(find_files(InputSpec(path="d"), tmp_path)) == 2
    with pytest.raises(ValueError, match=r"no split 'dev'; it has .*train"):
        find_files(InputSpec(path="d", split="dev"), tmp_path)


def test_a_dataset_of_the_hub_is_read_from_its_arrow_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_bytes(as_jsonl())
    [file] = find_files(InputSpec(dataset=str(tmp_path / "d")), tmp_path)
    assert file.name.startswith("train/")
    assert counts(file) == {"example": len(ROWS)}


def test_a_missing_datasets_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_datasets(name: str, *args: Any) -> Any:  # noqa: ANN401 - the signature of __import__
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ValueError, match=r"pip install 'winnow\[hub\]'"):
        find_files(InputSpec(dataset="openai/gsm8k"), Path())
