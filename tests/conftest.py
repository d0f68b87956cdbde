"""Fixtures that more than one test uses."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pipelines.interrupts import STOP, Stop
from pipelines.run_log import CONTEXT, Context
from tests.draws import USUAL

# A busy machine is no fault of what is tested. The suite draws the same cases each time: a rare case that
# fails should stop whoever looks for it (`make explore`), not whoever changed something else.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", PATIENT, derandomize=True, max_examples=USUAL)
EXPLORED = int(os.environ.get("WINNOW_EXAMPLES", "2000"))
settings.register_profile("explore", PATIENT, derandomize=False, max_examples=EXPLORED, print_blob=True)
settings.load_profile("same")

# Torch's threads spin while they wait; several test processes on two cores then stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# It sets the sizes of pieces of whatever process imports it, as looking for doctests in it would.
collect_ignore = ["crash/loaded.py"]

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_command_before() -> None:
    """A command that a test runs in this process leaves its run id, stop and log levels."""
    vars(CONTEXT).update(vars(Context()))
    STOP.requested, STOP.caught = Stop.requested, Stop.caught
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("apache_beam").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of the shared real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WINNOW_REALDATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
