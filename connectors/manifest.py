"""The manifest of a run: written last, so that its presence means the run is complete."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.shards import write_json
from connectors.storage import exists, file_version, join, open_binary, read_text

MANIFEST = "manifest.json"
BLOCK_BYTES = 4 * 2**20
_REPORTED = ("winnow", "apache-beam", "pyarrow", "numpy", "torch", "transformers", "datasketch")


def read_manifest(out: str | Path) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    path = join(str(out), MANIFEST)
    if not exists(path):
        raise ValueError(
            f"{out}: no {MANIFEST}, so no finished run is here. Give the output folder of a run, "
            "or run `winnow run` again to finish one that was stopped."
        )
    manifest: dict[str, Any] = json.loads(read_text(path))
    return manifest


def write_manifest(out: str | Path, manifest: dict[str, Any]) -> None:
    """Writes OUT/manifest.json in one step."""
    write_json(join(str(out), MANIFEST), manifest)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the result."""
    versions = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def file_hash(path: str, see: Callable[[bytes], object] | None = None) -> str:
    """SHA-256 of an input file's bytes as stored, hexadecimal; reads the file once, a few MB at a time.

    Args:
        path: The file.
        see: Gets each block on the way, so that who needs the bytes too need not read them again.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if see:
                see(block)
    return digest.hexdigest()


class InputChanged(ValueError):  # noqa: N818 - reads as what happened
    """An input is not what it was when the run began."""


@dataclass(frozen=True)
class Fingerprint:
    """What a file held when it was hashed.

    Attributes:
        version: Its size and time before it was hashed, see `file_version`.
        hash: SHA-256 of its bytes.
    """

    version: tuple[int, float]
    hash: str


def fingerprint(path: str, see: Callable[[bytes], object] | None = None) -> Fingerprint:
    """Size, time and hash of a file; reads it once.

    Args:
        path: The file.
        see: Gets each block of the bytes that are hashed.

    Raises:
        OSError: If it cannot be read.
    """
    version = file_version(path)  # first: a change while it is hashed is found by `check_unchanged`
    return Fingerprint(version, file_hash(path, see))


def check_unchanged(path: str, known: Fingerprint) -> None:
    """Holds a file to what it was, once it was read: it is hashed again only if its size or time changed.

    Raises:
        InputChanged: If it holds something else, or is gone.
    """
    try:
        if file_version(path) == known.version or file_hash(path) == known.hash:
            return
        what = "changed"
    except FileNotFoundError:
        what = "was removed"
    raise InputChanged(
        f"{path} {what} while this run read it; what was read may be of neither version and was not kept. "
        "Let what writes there finish, or copy the file, and run again."
    )


def json_hash(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
