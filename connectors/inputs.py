"""The `inputs:` of a recipe, and the files they mean.

An input is a file, a folder, a glob, a folder written by Hugging Face `datasets`, or a data set on the hub.
What kind of file each one is, is told by its content and not by its ending: JSON lines are often called
.json, and a JSON list .jsonl.
"""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from connectors.decompress import Compression
from connectors.fields import CANONICAL_FIELDS, FORMAT_SYNONYMS, FORMATS
from connectors.line_ranges import LineRange
from connectors.sniff import DATA_ENDINGS, PACKED_ENDINGS, Kind, sniff
from connectors.storage import is_remote, matching

_METADATA_FILES = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_ABOUT_FILES = ("readme", "license", "licence", "notice", "changelog", "citation", "contributing")


class InputSpec(BaseModel):
    """One entry of `inputs:` in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        default=None,
        description="file, folder, glob, or folder that Hugging Face datasets saved; s3:// and gs:// too; a"
        " relative path starts at the current folder",
    )
    dataset: str | None = Field(
        default=None,
        description="id of a data set on the Hugging Face hub, instead of path; needs the extra winnow[hub]",
    )
    source: str | None = Field(
        default=None,
        min_length=1,
        description="name of this input; it begins the ids of its rows, and selectors and the report count "
        "by it; null: made from the path",
    )
    format: str = Field(
        default="auto", description="chat format of its rows; auto: found for each row from its field names"
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="fields of other names: the canonical name, then the name in the data",
    )
    pairs: Literal["chosen", "both"] = Field(
        default="chosen",
        description="what a preference pair gives: the chosen answer as a row (the rejected one stays in "
        "extra), or a row for each of the two",
    )
    split: str | None = Field(
        default=None, description="split of a Hugging Face data set, such as train; null: all of them"
    )
    subset: str | None = Field(
        default=None, description="configuration of a data set on the hub, such as main"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of a data set on the hub; null: the newest"
    )

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        return _known(value, ("auto", *FORMATS, *FORMAT_SYNONYMS), "format")

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            _known(name, CANONICAL_FIELDS, "field name")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of path (files) and dataset (an id on the Hugging Face hub)")
        if self.path is not None and (self.subset or self.revision):
            raise ValueError(
                f"subset and revision are for a dataset on the hub, not for the path {self.path!r}"
            )
        if self.split and not re.fullmatch(r"[\w.-]+", self.split):
            raise ValueError(f"split {self.split!r} is not a plain name; slices are not read, use --limit")
        return self

    @property
    def source_name(self) -> str:
        """The stated source, or one made from the path: a file's stem, the name of a folder or data set."""
        if self.source:
            return self.source
        if self.dataset:
            return _plain(self.dataset.rstrip("/").rsplit("/", 1)[-1])
        path = str(self.path).rstrip("/")
        parts = [part for part in path.split("/") if part not in ("", ".", "..") and not glob.has_magic(part)]
        name = parts[-1] if parts else ""
        return _plain(name if glob.has_magic(path) else _stem(name))


@dataclass(frozen=True)
class InputFile:
    """One file to read, and how.

    Attributes:
        source: Name of the input it belongs to.
        path: Where it is.
        name: File name relative to the input's folder, with "/"; part of the ids of its rows.
        kind: What it holds.
        compression: What it is packed in.
        format: Chat format, or "auto".
        fields: Canonical name → field name.
        pairs: What a preference pair gives.
        fault: Why the file cannot be read at all; None for a file that can.
        groups: Row groups of a Parquet file to read, as (first, end); None for the whole file.
        lines: Lines to read of a file of JSON lines that is not packed; None for the whole file.
    """

    source: str
    path: str
    name: str
    kind: Kind
    compression: Compression | None = None
    format: str = "auto"
    fields: dict[str, str] = field(default_factory=dict)
    pairs: Literal["chosen", "both"] = "chosen"
    fault: str | None = None
    groups: tuple[int, int] | None = None
    lines: LineRange | None = None

    @property
    def id_prefix(self) -> str:
        """What the ids of its rows begin with."""
        return f"{self.source}/{self.name}:"


def find_files(spec: InputSpec, base: Path) -> list[InputFile]:
    """The files of an input, sorted by name.

    A folder is searched through all its subfolders for files with a known ending; hidden files, and
    READMEs, licences and descriptions of data sets, are passed over. A glob and a file are taken as they are.

    Args:
        spec: The input.
        base: Folder that relative paths start from.

    Raises:
        ValueError: If there is nothing to read, with what to do about it.
    """
    if spec.dataset is not None:
        from connectors.hub import hub_files

        return _arrow_files(spec, hub_files(spec.dataset, spec.subset, spec.split, spec.revision))
    path = str(spec.path)
    if is_remote(path):
        return _input_files(spec, _remote(path))
    full = os.path.join(base, os.path.expanduser(path))
    if os.path.isdir(full) and _is_datasets_folder(full):
        return _arrow_files(spec, _datasets_files(full, spec.split))
    if spec.split:
        raise ValueError(f"input {path!r}: split is for Hugging Face data sets; this is plain files")
    return _input_files(spec, _local(path, full, base))


def find_all_files(specs: Iterable[InputSpec], base: Path) -> list[tuple[InputFile, ...]]:
    """The files of several inputs, in their order.

    Args:
        specs: The inputs.
        base: Folder that relative paths start from.

    Raises:
        ValueError: If a path matches nothing, or two files would give the same ids.
    """
    found = [tuple(find_files(spec, base)) for spec in specs]
    seen: dict[str, str] = {}
    for file in (file for files in found for file in files):
        other = seen.setdefault(file.id_prefix, file.path)
        if other != file.path:
            raise ValueError(
                f"{other} and {file.path} would give their rows the same ids "
                f"({file.id_prefix}...). "
                "Give one of the two inputs another `source:` name."
            )
    return found


def _local(path: str, full: str, base: Path) -> list[tuple[str, str]]:
    """(name, path) of the files that a path of this machine means."""
    if os.path.isdir(full):
        found = [(os.path.relpath(file, full), file) for file in _walk(full)]
        if not found:
            raise ValueError(
                f"input {path!r}: nothing to read in the folder {full}; files with these endings are read: "
                f"{', '.join(DATA_ENDINGS)}, also packed as {', '.join(PACKED_ENDINGS)}; "
                "name other files one by one or with a glob"
            )
    elif os.path.exists(full):
        found = [(os.path.basename(full), full)]
    elif glob.has_magic(full):
        root = _glob_root(full)
        matches = [match for match in glob.glob(full, recursive=True) if os.path.isfile(match)]
        found = [(os.path.relpath(match, root), match) for match in matches]
        if not found:
            raise ValueError(
                f"input {path!r}: no file matches {full}; check the pattern and the folder {root}"
            )
    else:
        raise ValueError(f"input {path!r}: there is no file or folder {full}; relative paths start at {base}")
    return [(name.replace(os.sep, "/"), file) for name, file in found]


def _remote(path: str) -> list[tuple[str, str]]:
    """(name, path) of the files that a path of a Beam filesystem means."""
    # What ends like a data file is one; anything else may be a folder, which some stores list as a file too.
    folder = path.rstrip("/") + "/**"
    is_file = glob.has_magic(path) or _is_data_file(path.rsplit("/", 1)[-1])
    for pattern in (path, folder) if is_file else (folder, path):
        matches = matching(pattern)
        if pattern == folder:
            matches = [match for match in matches if _is_data_file(match.rsplit("/", 1)[-1])]
        if matches:
            root = _glob_root(pattern) if glob.has_magic(pattern) else pattern.rsplit("/", 1)[0]
            return [(match[len(root) :].lstrip("/"), match) for match in matches]
    raise ValueError(f"input {path!r}: nothing to read there; check the path and your access to it")


def _walk(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        yield from (os.path.join(root, name) for name in files if _is_data_file(name))


def _is_data_file(name: str) -> bool:
    low = name.lower()
    for packed in PACKED_ENDINGS:
        low = low.removesuffix(packed)
    if low in _METADATA_FILES or low.startswith((".", "_", *_ABOUT_FILES)):
        return False
    return low.endswith(DATA_ENDINGS)


def _glob_root(pattern: str) -> str:
    """The folder before the first part with a wildcard."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")


def _input_files(spec: InputSpec, found: Iterable[tuple[str, str]]) -> list[InputFile]:
    files = []
    places = sorted(found)
    for name, path in places:
        try:
            kind, compression = sniff(path)
        except ValueError as error:
            if len(places) == 1:
                raise
            # one strange file among others becomes a bad row, and the others are read
            files.append(replace(_input_file(spec, name, path, "jsonl", None), fault=str(error)))
        else:
            files.append(_input_file(spec, name, path, kind, compression))
    return files


def _arrow_files(spec: InputSpec, found: Iterable[tuple[str, str]]) -> list[InputFile]:
    return [_input_file(spec, name, path, "arrow", None) for name, path in sorted(found)]


def _input_file(
    spec: InputSpec, name: str, path: str, kind: Kind, compression: Compression | None
) -> InputFile:
    return InputFile(
        spec.source_name, path, id_name(name), kind, compression, spec.format, dict(spec.fields), spec.pairs
    )


def id_name(name: str) -> str:
    r"""A file name as it stands in ids: one line of plain text, whatever bytes the file system holds.

    What is not printable or not UTF-8 is written as an escape; so are the backslash, and ":", which ends the
    name in an id.

    Example:
        >>> id_name("a\nb:c.jsonl")
        'a\\nb\\x3ac.jsonl'
    """
    name = name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return "".join(shown).replace(":", "\\x3a")


def _is_datasets_folder(folder: str) -> bool:
    """Whether `save_to_disk` of Hugging Face datasets wrote this folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def _datasets_files(folder: str, split: str | None) -> list[tuple[str, str]]:
    """(name, path) of the Arrow files of a saved Dataset or DatasetDict."""
    if not os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        if split:
            raise ValueError(f"input {folder!r} is a single Dataset without splits; leave out split: {split}")
        return [(name, os.path.join(folder, name)) for name in _data_files(folder)]
    # basename here and below: what a file says must not lead out of its folder
    splits = [os.path.basename(str(part)) for part in _read_json(f"{folder}/dataset_dict.json", "splits")]
    if split and split not in splits:
        raise ValueError(f"input {folder!r} has no split {split!r}; it has {', '.join(splits)}")
    return [
        (f"{part}/{name}", os.path.join(folder, part, name))
        for part in ([split] if split else splits)
        for name in _data_files(os.path.join(folder, part))
    ]


def _data_files(folder: str) -> list[str]:
    listed = _read_json(os.path.join(folder, "state.json"), "_data_files")
    return [os.path.basename(str(entry["filename"])) for entry in listed]


def _read_json(path: str, key: str) -> list[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return list(json.load(file)[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} should list {key!r} of a saved Hugging Face data set: {error!r}") from error


def _known(value: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown {what} {value!r}; {hint}known are {', '.join(known)}")
    return value


def _stem(name: str) -> str:
    for ending in (*PACKED_ENDINGS, *DATA_ENDINGS):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "input"
