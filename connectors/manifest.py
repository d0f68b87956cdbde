"""The manifest of a run: written last, so that its presence means the run is complete."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from connectors.decompress import open_binary
from connectors.shards import write_json

MANIFEST = "manifest.json"
BLOCK_BYTES = 4 * 2**20
_REPORTED = ("winnow", "apache-beam", "pyarrow", "numpy", "torch", "transformers", "datasketch")


def read_manifest(out: str | Path) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    path = Path(out) / MANIFEST
    if not path.exists():
        raise ValueError(
            f"{out}: no {MANIFEST}, so no finished run is here. Give the output folder of a run, "
            "or run `winnow run` again to finish one that was stopped."
        )
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return manifest


def write_manifest(out: str | Path, manifest: dict[str, Any]) -> None:
    """Writes OUT/manifest.json in one step."""
    write_json(Path(out) / MANIFEST, manifest)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the result."""
    versions = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def file_hash(path: str) -> str:
    """SHA-256 of an input file's bytes as stored, hexadecimal; reads the file once, a few MB at a time.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def json_hash(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
