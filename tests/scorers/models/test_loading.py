# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from scorers.models import forward, loading
from scorers.models.loading import load_model
from scorers.models.outputs import Logits
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import CONTEXT, tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
}


def write(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def on_cpu(folder: Path, **changes: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), device="cpu", **changes)


def test_pickled_weights_are_refused_with_the_way_out(toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(toy_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"no \*.safetensors weights \(found: pytorch_model.bin\).*save_pretrained"
    ):
        load_model(on_cpu(folder))


def test_a_model_that_needs_its_own_code_is_refused_without_running_it(
    toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(toy_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "custom",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="code that comes with a model is never run"):
        load_model(on_cpu(folder))
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_refused_and_not_made_up(toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "holes"
    shutil.copytree(toy_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for model.layers.0.mlp.up_proj.weight"):
        load_model(on_cpu(folder))


def test_a_folder_without_a_model_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"cannot load '.*'.*\n?(.*\n)*.*Wanted: a folder or hub id"):
        load_model(on_cpu(tmp_path))


def test_max_tokens_above_the_context_is_refused(toy_folder: Path) -> None:
    with pytest.raises(
        ValueError, match=f"max_tokens: {CONTEXT + 1} is above the context .* {CONTEXT} tokens"
    ):
        load_model(on_cpu(toy_folder, max_tokens=CONTEXT + 1))
    assert load_model(on_cpu(toy_folder)).renderer.max_tokens == CONTEXT


def test_cuda_where_there_is_none_is_refused(toy_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match="no CUDA device"):
        load_model(ModelSettings(path=str(toy_folder), device="cuda"))


def test_a_model_is_loaded_once_in_a_process(toy_folder: Path) -> None:
    model = load_model(on_cpu(toy_folder))
    assert load_model(on_cpu(toy_folder)) is model
    assert load_model(on_cpu(toy_folder, max_tokens=64)) is not model


def test_compiled_sums_are_used_and_left_where_they_find_other_numbers(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_model(ModelSettings(path=str(toy_folder), device="cpu", max_tokens=CONTEXT - 1)).network
    assert network.fused
    fused_logits = forward.fused_logits

    def wrong(logits: torch.Tensor, labels: torch.Tensor) -> Logits:
        return fused_logits(logits * 1.01, labels)

    monkeypatch.setattr(forward, "fused_logits", wrong)
    assert not loading._can_fuse(replace(network, fused=False), len(network.head.weight))
    assert "give other numbers" in caplog.text


def test_an_encoder_is_refused_because_it_sees_later_tokens(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, is_decoder=True, initializer_range=0.3,
    )  # fmt: skip
    folder = write(tmp_path / "bert", BertLMHeadModel(config))
    config.is_decoder = False
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match="looks at later tokens|not its output layer applied"):
        load_model(on_cpu(folder))


@pytest.mark.parametrize(
    ("config_class", "model_class", "settings", "attribute"),
    [
        (Gemma2Config, Gemma2ForCausalLM, {"final_logit_softcapping": 3.0, "head_dim": 8}, "softcap"),
        (CohereConfig, CohereForCausalLM, {"logit_scale": 0.25}, "logit_scale"),
        (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 4.0}, "logit_scale"),
        (GPT2Config, GPT2LMHeadModel, {}, None),
    ],
    ids=["gemma2", "cohere", "granite", "gpt2"],
)
def test_scaled_logits_are_followed_and_unknown_scalings_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config_class: Any,
    model_class: Any,
    settings: dict[str, Any],
    attribute: str | None,
) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": CONTEXT} if attribute is None else SMALL
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=len(tokenizer()), **sizes, **settings))
    folder = write(tmp_path / "model", model)
    network = load_model(on_cpu(folder)).network
    if attribute is None:
        return
    assert getattr(network, attribute) is not None
    with monkeypatch.context() as patch:
        plain = loading._take_apart
        patch.setattr(loading, "_take_apart", lambda *args: _without(plain(*args), attribute))
        with pytest.raises(ValueError, match="not its output layer applied to its last hidden states"):
            load_model(on_cpu(folder, max_tokens=CONTEXT))


def _without(network: Any, attribute: str) -> Any:
    return replace(network, **{attribute: None})


def test_unknown_settings_and_impossible_values_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [
        {"device": "tpu"},
        {"dtype": "float16"},
        {"max_tokens": 1},
        {"trust_remote_code": True},
    ]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            ModelSettings(path="x", **wrong)
