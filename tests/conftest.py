"""Fixtures that more than one test uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault of what is tested
settings.load_profile("no deadline")

# Torch's threads spin while they wait; several test processes on two cores then stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of the shared real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WINNOW_REALDATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
