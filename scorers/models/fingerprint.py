"""Says which model made scores: what a resumed run and a manifest know it by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from scorers.models.loading import model_folder, resolve_device, resolve_dtype
from scorers.models.rendering import PLAIN_LAYOUT_VERSION, choose_template
from scorers.models.settings import EmbeddingSettings, ModelSettings

Settings = TypeVar("Settings", ModelSettings, EmbeddingSettings)

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def as_known(settings: Settings, known: dict[str, Any]) -> Settings:
    """The settings with the device and the precision of a fingerprint, for workers on other machines.

    What `auto` means is decided once, where the run was started: the manifest is true of every worker.
    """
    if settings.device == "spread":
        return settings.model_copy(update={"dtype": known["dtype"]})
    return settings.model_copy(update={"device": known["device"], "dtype": known["dtype"]})


def fingerprint(settings: ModelSettings) -> dict[str, str | int | None]:
    """What identifies the scores of a model, without loading it: for resume keys and the manifest.

    Returns:
        name; revision (the hub's commit) or weights_hash (of a folder's safetensors files); dtype and
        device as resolved here; max_tokens, on_overflow and on_control_tokens; template ("tokenizer",
        "plain" or a path), template_hash, tokenizer_hash and config_hash. Hashes are SHA-256.

    Raises:
        ValueError: If the folder or hub id cannot be read.
    """
    folder = model_folder(settings)
    is_local = Path(settings.path).is_dir()
    device = resolve_device(settings)
    tokenizer = [folder / name for name in _TOKENIZER_FILES]
    template, text = _template_text(settings, folder)
    return {
        "name": settings.path,
        "revision": None if is_local else folder.name,
        "weights_hash": _files_sha256(sorted(folder.glob("*.safetensors"))) if is_local else None,
        "dtype": resolve_dtype(settings, device),
        "device": device,
        "max_tokens": settings.max_tokens,
        "on_overflow": settings.on_overflow,
        "on_control_tokens": settings.on_control_tokens,
        "loss_on": settings.loss_on,
        "score_end": settings.score_end,
        "template": template,
        "template_hash": hashlib.sha256(text.encode()).hexdigest(),
        "tokenizer_hash": _files_sha256(path for path in tokenizer if path.exists()),
        "config_hash": _files_sha256([folder / "config.json"]),
    }


def _template_text(settings: ModelSettings, folder: Path) -> tuple[str, str]:
    """Where the chat template comes from, and its text."""
    if settings.chat_template not in ("auto", "plain"):
        return settings.chat_template, choose_template(None, settings.chat_template)
    if settings.chat_template == "auto":
        for name in ("chat_template.jinja", "chat_template.json"):
            if (folder / name).exists():
                return "tokenizer", (folder / name).read_text(encoding="utf-8")
        config = folder / "tokenizer_config.json"
        template = (
            json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.exists() else None
        )
        if template:
            return "tokenizer", json.dumps(template)
    return "plain", PLAIN_LAYOUT_VERSION


def _files_sha256(paths: Iterable[Path]) -> str:
    """Hash of files' names and contents, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        total.update(f"{path.name}\0{_file_sha256(path, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file; its size and time are in the cache's key, so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
