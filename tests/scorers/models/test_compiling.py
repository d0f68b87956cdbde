"""Compiled layers give the scores of plain ones, or the model is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from connectors.examples import message
from scorers.models import loading
from scorers.models.compiling import decoder_layers
from scorers.models.loading import load_model
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import examples, write_model

SCORERS = ("loss", "entropy")


@pytest.fixture
def settings(tmp_path: Path) -> ModelSettings:
    return ModelSettings(path=str(write_model(tmp_path)), device="cpu", compile=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_layers_give_the_scores_of_plain_ones_for_batches_of_any_shape(
    settings: ModelSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    rows = examples(
        [
            [message("user", f"Name {n} colours"), message("assistant", "red and blue " * n)]
            for n in range(1, 4)
        ]
    )
    compiled, plain = (
        load_model(settings.model_copy(update={"compile": compile_, "batch_tokens": 64}))
        for compile_ in (True, False)
    )
    ours, theirs = (score_examples(model, rows, SCORERS)[0].to_pydict() for model in (compiled, plain))
    assert list((tmp_path / "kernels").rglob("*.so"))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        wanted = values if isinstance(values[0], str) else pytest.approx(values, rel=1e-4, abs=1e-5)
        assert ours[name] == wanted


def test_without_a_compiler_the_message_says_what_to_install(
    settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_layers(body: nn.Module) -> None:
        raise RuntimeError("No working C++ compiler found in g++\nand more")

    monkeypatch.setattr(loading, "compile_layers", compile_layers)
    with pytest.raises(
        ValueError, match=r"(?s)model\.compile: .*No working C\+\+ compiler.*\n.*apt install g"
    ):
        load_model(settings)


def test_a_model_that_changes_when_compiled_is_refused(
    settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_layers(body: nn.Module) -> None:
        weight = next(decoder_layers(body)[0].parameters())
        weight.copy_(torch.zeros_like(weight))

    monkeypatch.setattr(loading, "compile_layers", compile_layers)
    with pytest.raises(ValueError, match=r"model\.compile: .* give other hidden states"):
        load_model(settings)


def test_the_layers_are_the_outermost_list_that_holds_most_weights() -> None:
    expert = nn.ModuleList([nn.Linear(4, 4)])
    layers = nn.ModuleList([nn.ModuleDict({"experts": expert})])
    body = nn.ModuleDict({"adapters": nn.ModuleList([nn.Linear(1, 1)]), "layers": layers})
    assert decoder_layers(body) is layers
    with pytest.raises(ValueError, match="Linear has no list of layers"):
        decoder_layers(nn.Linear(2, 2))


def test_a_model_spread_over_devices_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="device: spread"):
        ModelSettings(path="m", device="spread", compile=True)
