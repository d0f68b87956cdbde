"""What identifies the scores of a model."""

# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scorers.models.fingerprint import as_known, fingerprint
from scorers.models.loading import load_model
from scorers.models.settings import EmbeddingSettings, ModelSettings
from tests.scorers.toy_models import write_model


def on_cpu(folder: Path, **changes: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), device="cpu", **changes)


def test_the_fingerprint_names_weights_template_and_tokenizer(toy_folder: Path, tmp_path: Path) -> None:
    first = fingerprint(on_cpu(toy_folder))
    assert first["dtype"] == "float32"
    assert (first["template"], first["revision"]) == ("tokenizer", None)
    copy = tmp_path / "copy"
    shutil.copytree(toy_folder, copy)
    assert fingerprint(on_cpu(copy)) | {"name": ""} == first | {"name": ""}
    plain = fingerprint(on_cpu(copy, chat_template="plain"))
    assert plain["template_hash"] != first["template_hash"]
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    changed = fingerprint(on_cpu(copy))
    assert {key for key in first if changed[key] != first[key]} == {"name", "weights_hash"}


def test_the_fingerprint_sees_a_changed_template_in_the_folder(tmp_path: Path) -> None:
    one = fingerprint(on_cpu(write_model(tmp_path / "one")))
    other = fingerprint(on_cpu(write_model(tmp_path / "other", template="{{ messages[0].content }}")))
    none = fingerprint(on_cpu(write_model(tmp_path / "none", template=None)))
    assert len({one["template_hash"], other["template_hash"], none["template_hash"]}) == 3
    assert none["template"] == "plain"
    assert one["weights_hash"] == other["weights_hash"] == none["weights_hash"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_may_be_asked_for_where_there_is_none_but_no_model_is_loaded_there(toy_folder: Path) -> None:
    settings = ModelSettings(path=str(toy_folder), device="cuda")
    known = fingerprint(settings)
    assert (known["device"], known["dtype"]) == ("cuda", "bfloat16")
    with pytest.raises(ValueError, match="no CUDA device"):
        load_model(settings)


def test_workers_get_the_device_and_the_precision_that_the_manifest_names(toy_folder: Path) -> None:
    known = {"device": "cuda", "dtype": "bfloat16"}
    model = as_known(ModelSettings(path=str(toy_folder), max_tokens=64), known)
    assert (model.device, model.dtype, model.max_tokens) == ("cuda", "bfloat16", 64)
    embedding = as_known(EmbeddingSettings(path=str(toy_folder)), known)
    assert (embedding.device, embedding.dtype) == ("cuda", "bfloat16")
    spread = as_known(ModelSettings(path=str(toy_folder), device="spread"), known)
    assert (spread.device, spread.dtype) == ("spread", "bfloat16")
