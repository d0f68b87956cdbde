"""A handful of the disturbances that `python -m tests.crash` plays at random, each at a stated place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.exit_codes import ExitCode
from tests.crash.changes import states_over_an_earlier_run, wrong_after_resuming
from tests.crash.faults import Fault
from tests.crash.harness import Attempt
from tests.crash.rounds import (
    Disturbance,
    Undisturbed,
    disk_full,
    input_removed,
    killed_before_a_change,
    play,
    run_undisturbed,
    small_disk,
    two_at_once,
    worker_killed_before_a_change,
)

EVERY = 7  # of the states that a run goes through; the long mode has them all


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return run_undisturbed(tmp_path_factory.mktemp("crash"))


@pytest.mark.parametrize(
    "disturb",
    [
        killed_before_a_change,
        worker_killed_before_a_change,
        disk_full,
        small_disk,
        input_removed,
        two_at_once,
    ],
)
def test_a_disturbed_run_goes_on_to_the_same_files(undisturbed: Undisturbed, disturb: Disturbance) -> None:
    try:
        play(undisturbed, disturb, seed=disturb.__name__)
    except PermissionError as error:
        if disturb is not small_disk:  # which has to be mounted
            raise
        pytest.skip(str(error))


def test_a_kill_between_any_two_changes_of_publishing_loses_nothing(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    states = states_over_an_earlier_run(undisturbed, tmp_path / "out", tmp_path / "states")
    publishing = [state for state in states if (state / ".winnow" / "publish").exists()]
    assert publishing
    assert wrong_after_resuming(undisturbed, tmp_path / "out", publishing[::EVERY]) == []


def test_a_read_only_folder_is_refused_with_a_message(undisturbed: Undisturbed, tmp_path: Path) -> None:
    attempt = Attempt(undisturbed.recipe, tmp_path, fault=Fault(str(tmp_path), "read-only"))
    assert attempt.wait() in (ExitCode.FAULT, ExitCode.CHANGE_NEEDED)
    assert "Read-only file system" in attempt.said
    assert "Traceback" not in attempt.said
