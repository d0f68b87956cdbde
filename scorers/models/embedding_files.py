"""Finds the files of an embedding model, and says of which kind it is.

Only configuration files decide; nothing that comes with a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["static", "sentence-transformers", "causal"]

CONFIG_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_WITHOUT_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of a sentence-transformers `modules.json`: the last part of its type, and its folder."""

    type: str
    folder: Path


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """An embedding model on this machine.

    Attributes:
        path: The folder or hub id that the recipe gives, for messages.
        kind: How the model is read.
        folder: Where its files are.
        modules: What `modules.json` lists, in order; empty where there is none.
        revision: The hub's commit; None for a folder.
    """

    path: str
    kind: Kind
    folder: Path
    modules: tuple[Module, ...]
    revision: str | None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The model's folder, and those of its modules that are others, in order."""
        return tuple(dict.fromkeys([self.folder, *(module.folder for module in self.modules)]))


def find_model(path: str, revision: str | None, with_weights: bool) -> ModelFiles:
    """Finds a model in a folder or on the Hugging Face hub, and recognises its kind.

    Args:
        path: Folder or hub id.
        revision: Branch, tag or commit on the hub; None: its main branch.
        with_weights: Whether a model on the hub is fetched with its safetensors files.

    Raises:
        ValueError: If there is no such model, or it is of no kind that can be read here.
    """
    is_local = Path(path).is_dir()
    folder = Path(path) if is_local else _snapshot(path, revision, with_weights)
    modules = _modules(path, folder)
    kind = _kind(path, folder, modules)
    return ModelFiles(path, kind, folder, modules, None if is_local else folder.name)


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """The contents of a JSON file, an empty object where there is no such file.

    Raises:
        ValueError: If the file is not JSON.
    """
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"model.path: {str(path)!r} is not JSON ({error}); fetch the model again, completely"
        ) from error


def _snapshot(path: str, revision: str | None, with_weights: bool) -> Path:
    import huggingface_hub

    patterns = [*_WITHOUT_WEIGHTS, "*.safetensors"] if with_weights else _WITHOUT_WEIGHTS
    try:
        return Path(huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: {path!r} is no folder here, and the Hugging Face hub does not give it: {error}"
        ) from error


def _modules(path: str, folder: Path) -> tuple[Module, ...]:
    listed = read_json(folder / "modules.json") or []
    try:
        types = [(str(entry["type"]), folder / entry["path"]) for entry in listed]
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"model.path: modules.json of {path!r} is not a list of objects with type and path"
        ) from error
    for name, _ in types:
        if not name.startswith("sentence_transformers."):
            raise ValueError(
                f"model.path: {path!r} has a module {name} of its own; code that comes with a model is never run"
            )
    return tuple(Module(name.rpartition(".")[2], where) for name, where in types)


def _kind(path: str, folder: Path, modules: Sequence[Module]) -> Kind:
    if modules and modules[0].type == "Transformer":
        return "sentence-transformers"
    if modules and modules[0].type == "StaticEmbedding":
        return "static"
    if modules:
        raise ValueError(
            f"model.path: {path!r} begins with the module {modules[0].type}; "
            "wanted Transformer or StaticEmbedding"
        )
    config = read_json(folder / "config.json")
    if not config:
        raise ValueError(
            f"model.path: {path!r} has neither modules.json nor config.json. Wanted: a static model "
            "(model2vec), a sentence-transformers model or a causal language model"
        )
    if config.get("model_type") == "model2vec" or "StaticModel" in (config.get("architectures") or ()):
        return "static"
    return "causal"  # whether it really is one is checked when it is loaded
