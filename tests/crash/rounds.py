"""Rounds: a run is disturbed, resumed with the same command, and compared with an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.exit_codes import ExitCode
from tests.crash.corpus import INPUTS, write_recipe
from tests.crash.faults import Action, Fault
from tests.crash.harness import KILLED, Attempt, Outcome, changes_of, differences, finish, outcome

SAID = {"disk full": "No space left on device", "read-only": "Read-only file system"}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed.

    Attributes:
        recipe: Path of the recipe; rounds work in its folder.
        outcome: What the run left.
        states: Copies of its output folder before each change that it made there.
        seconds: How long it took.
    """

    recipe: Path
    outcome: Outcome
    states: tuple[Path, ...]
    seconds: float

    @property
    def folder(self) -> Path:
        """Where rounds work."""
        return self.recipe.parent


def run_undisturbed(folder: Path) -> Undisturbed:
    """Makes the inputs and the run to compare with, and counts its changes."""
    recipe = write_recipe(folder)
    wanted = finish(recipe, folder / "undisturbed")
    states = changes_of(folder / "counted", recipe, folder / "states")
    wrong = differences(outcome(folder / "counted"), wanted)
    assert not wrong, "two undisturbed runs differ:\n" + "\n".join(wrong)
    seconds = json.loads((folder / "undisturbed" / "manifest.json").read_text("utf-8"))["seconds"]
    return Undisturbed(recipe, wanted, tuple(states), seconds)


@dataclass
class Round:
    """One round.

    Attributes:
        undisturbed: What to compare with.
        out: Output folder of the round.
        draw: Source of all its choices.
        notes: What happened, for the round's line.
    """

    undisturbed: Undisturbed
    out: Path
    draw: random.Random
    notes: list[str]

    def attempt(self, workers: int = 1, fault: Fault | None = None) -> Attempt:
        """Starts the command on the round's folder."""
        return Attempt(self.undisturbed.recipe, self.out, workers, fault)

    def fault(self, action: Action, process: str = "driver") -> Fault:
        """A fault at a random change."""
        if process == "worker":
            return Fault(str(self.out), action, self.draw.randint(1, 12), "worker")
        return Fault(str(self.out), action, self.draw.randint(1, len(self.undisturbed.states)))

    def moment(self, workers: int = 1) -> float:
        """A random time in seconds within a run; one with worker processes takes several times as long."""
        return self.draw.uniform(0.1, self.undisturbed.seconds * (1 if workers == 1 else 4))

    def note(self, text: str) -> None:
        """Adds to the round's line."""
        self.notes.append(text)


def killed_before_a_change(one: Round) -> None:
    """SIGKILL of the command just before it changes its output folder."""
    fault = one.fault("kill")
    code = one.attempt(fault=fault).wait()
    one.note(f"change {fault.point}" if code == KILLED else "ended before")
    assert code in (KILLED, 0), code


def killed_at_a_time(one: Round) -> None:
    """SIGKILL of the command at a random time."""
    _kill_at_a_time(one, workers=1)


def killed_with_workers(one: Round) -> None:
    """SIGKILL of a command with two workers: of the command alone, or of all its processes."""
    _kill_at_a_time(one, workers=2)


def _kill_at_a_time(one: Round, workers: int) -> None:
    attempt, moment = one.attempt(workers), one.moment(workers)
    time.sleep(moment)
    if workers > 1 and one.draw.random() < 0.5:
        attempt.kill_all()
        one.note(f"all after {moment:.1f} s")
        return
    orphans = attempt.workers()
    attempt.kill()
    one.note(f"after {moment:.1f} s" + (f", {len(orphans)} workers left alone" if orphans else ""))
    # One that was still starting waits up to two minutes for its command, and writes nothing.


def worker_killed_at_a_time(one: Round) -> None:
    """SIGKILL of one worker process at a random time."""
    attempt = one.attempt(workers=2)
    wanted = one.draw.randint(1, 8)  # the how-manieth pair of workers to meet
    seen: set[int] = set()
    while attempt.runs and len(seen) < wanted:
        seen |= {worker.pid for worker in attempt.workers()}
        time.sleep(0.02)
    time.sleep(one.draw.uniform(0, 3))
    workers = attempt.workers()
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.draw.choice(workers).kill()
    _expect_dead_worker(one, attempt, was_killed=bool(workers))


def worker_killed_before_a_change(one: Round) -> None:
    """SIGKILL of worker processes just before they change the output folder."""
    _expect_dead_worker(one, one.attempt(2, one.fault("kill", "worker")), was_killed=False)


def _expect_dead_worker(one: Round, attempt: Attempt, was_killed: bool) -> None:
    code = attempt.wait()
    one.note(f"exit {code}" + ("" if code or was_killed else ", ended before"))
    if code:
        assert code == ExitCode.FAULT, f"exit code {code}:\n{attempt.said}"
        said = re.search(
            r"a worker process ended with exit code (-9|137) .* run again to resume", attempt.said
        )
        assert said, attempt.said
        assert "Traceback" not in attempt.said, attempt.said
    assert attempt.group_is_gone(), "workers outlive their command"


def disk_full(one: Round) -> None:
    """No space for this change and all that follow."""
    _refuse_changes(one, "disk full")


def read_only(one: Round) -> None:
    """A file system that turns read-only while the run goes on."""
    _refuse_changes(one, "read-only")


def disk_full_in_workers(one: Round) -> None:
    """No space for what the worker processes write."""
    _refuse_changes(one, "disk full", workers=2)


def _refuse_changes(one: Round, action: Action, workers: int = 1) -> None:
    fault = one.fault(action, "driver" if workers == 1 else "worker")
    attempt = one.attempt(workers, fault)
    code = attempt.wait()
    one.note(f"change {fault.point}, exit {code}" if code else "ended before")
    if code:
        assert code in (ExitCode.FAULT, ExitCode.CHANGE_NEEDED), f"exit code {code}:\n{attempt.said}"
        assert SAID[action] in attempt.said, attempt.said
        assert "Traceback" not in attempt.said, attempt.said


def small_disk(one: Round) -> None:
    """A real file system that is too small, and then is given room."""
    one.out.mkdir(exist_ok=True)
    kib = one.draw.randint(8, 900)
    with mounted(one.out, f"size={kib}k"):
        attempt = one.attempt()
        code = attempt.wait()
        one.note(f"{kib} KiB, exit {code}")
        if code:
            assert code in (ExitCode.FAULT, ExitCode.CHANGE_NEEDED), f"exit code {code}:\n{attempt.said}"
            assert SAID["disk full"] in attempt.said, attempt.said
            assert "Traceback" not in attempt.said, attempt.said
        _mount("-o", "remount,size=64m", str(one.out))
        compare(one)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A memory file system on a folder, as long as the block lasts.

    Raises:
        PermissionError: If this user may not mount.
    """
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"cannot mount: {done.stderr.strip()}")


def input_removed(one: Round) -> None:
    """An input that is gone when the killed run is to be resumed, and comes back."""
    killed_before_a_change(one)
    path = one.undisturbed.folder / "data" / one.draw.choice(INPUTS)
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        attempt = one.attempt()
        code = attempt.wait()
    finally:
        aside.rename(path)
    assert code == ExitCode.CHANGE_NEEDED, f"exit code {code}:\n{attempt.said}"
    assert path.name in attempt.said, attempt.said
    assert "Traceback" not in attempt.said, attempt.said


def two_at_once(one: Round) -> None:
    """A second run on the output folder of one that goes on."""
    first = one.attempt()
    while first.runs and not (one.out / ".winnow" / "lock").exists():
        time.sleep(0.01)
    time.sleep(one.draw.uniform(0, one.undisturbed.seconds / 2))
    if not first.runs:
        one.note("ended before")
        return
    second = one.attempt(workers=one.draw.choice((1, 2)))
    code = second.wait()
    if first.runs:
        assert code == ExitCode.OUTPUT_IN_USE, f"exit code {code}:\n{second.said}"
        assert "another winnow run is writing here" in second.said, second.said
    one.note(f"second: exit {code}")
    assert first.wait() == 0, first.said


def killed_over_an_earlier_run(one: Round) -> None:
    """SIGKILL while the output of an earlier run with another seed is replaced."""
    if not (one.out / "manifest.json").exists():
        earlier = Attempt(one.undisturbed.recipe, one.out, options=("--set", "select.1.q_tuning.keep=0.3"))
        assert earlier.wait() == 0, earlier.said
    fault = Fault(str(one.out), "kill", one.draw.randint(1, 90))
    code = one.attempt(fault=fault).wait()
    one.note(f"change {fault.point}" if code == KILLED else "ended before")
    assert code in (KILLED, 0), code


def terminated(one: Round) -> None:
    """SIGTERM, as a scheduler sends it, or SIGINT, to the command and its workers."""
    workers = one.draw.choice((1, 1, 2))
    attempt, moment = one.attempt(workers), one.moment(workers)
    time.sleep(moment)
    number = one.draw.choice((signal.SIGTERM, signal.SIGINT))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(attempt.pid, number)
    code = attempt.wait()
    one.note(f"{number.name} after {moment:.1f} s: exit {code}")
    assert code in (ExitCode.STOPPED, -number, 0), f"exit code {code}:\n{attempt.said}"
    assert attempt.group_is_gone(), "workers outlive their command"


Disturbance = Callable[[Round], None]
QUICK: tuple[Disturbance, ...] = (
    killed_before_a_change, killed_at_a_time, disk_full, read_only, small_disk, input_removed, two_at_once,
    killed_over_an_earlier_run,
)  # fmt: skip
WITH_WORKERS: tuple[Disturbance, ...] = (
    killed_with_workers, worker_killed_at_a_time, worker_killed_before_a_change, disk_full_in_workers,
    terminated,
)  # fmt: skip


def compare(one: Round, workers: int = 1) -> None:
    """Resumes without disturbance and compares.

    Raises:
        AssertionError: If what is there is not what the undisturbed run left.
    """
    found = finish(one.undisturbed.recipe, one.out, workers)
    wrong = differences(found, one.undisturbed.outcome)
    assert not wrong, "\n".join(wrong)


def play(undisturbed: Undisturbed, disturb: Disturbance, seed: str, times: int = 1) -> str:
    """Plays one round; returns what happened.

    Args:
        undisturbed: What to compare with.
        disturb: What happens to the run.
        seed: Of all choices.
        times: How often it is disturbed before it is left in peace.

    Raises:
        AssertionError: If the run did not end as it should; the output folder stays then.
    """
    one = Round(undisturbed, undisturbed.folder / f"round-{seed}", random.Random(seed), [])
    for _ in range(times):
        disturb(one)
    compare(one)
    shutil.rmtree(one.out)
    return "; ".join(one.notes)
