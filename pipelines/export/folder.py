"""The folder of an export: written whole or not at all, and never over files that another made."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from connectors.shards import write_json

MARK = "winnow-export.json"


@contextmanager
def export_folder(target: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends without an error.

    Args:
        target: Where it goes; an earlier export there is replaced.
        facts: What MARK says of the export; may be filled inside the block. The list of files is added.

    Raises:
        ValueError: If `target` holds a file that no export wrote.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        write_json(temporary / MARK, {**facts, "files": sorted(_files(temporary))})
        check_target(target)
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path) -> None:
    """Refuses a folder that holds anything but an earlier export.

    Raises:
        ValueError: Naming what was found.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; name a folder with --to")
    found = set(_files(target))
    strangers = found - {MARK} - _marked(target / MARK)
    if strangers:
        raise ValueError(
            f"{target} holds files that no export wrote ({sorted(strangers)[0]}); "
            "name another folder with --to"
        )


def _marked(mark: Path) -> set[str]:
    """The files that an earlier export says it wrote."""
    try:
        return set(json.loads(mark.read_text("utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError):  # no mark, or not one of ours
        return set()


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]


def _replace(new: Path, old: Path) -> None:
    """Renames `new` to `old`, which may exist."""
    aside = old.with_name(f".{old.name}.{uuid.uuid4().hex}.old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line, UTF-8, as they come."""
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        file.flush()
        os.fsync(file.fileno())


def link(file: Path, name: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no links."""
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
