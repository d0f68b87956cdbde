"""The toy model, written once for all tests of the scorers."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorers.models.loading import LoadedModel, load_model
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import write_model


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> LoadedModel:
    return load_model(ModelSettings(path=str(toy_folder), device="cpu"))
