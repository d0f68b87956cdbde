"""Runs of `winnow run` that are disturbed, and what they leave, compared with an undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tests.crash.faults import VARIABLE, Fault

ROOT = Path(__file__).resolve().parents[2]
DATA_FOLDERS = ("train", "dropped", "bad_rows", "scores", "suspects")
LOGS = (".winnow/workers.log",)
SETTLED = ("counts", "tokens", "dropped_reasons", "inputs", "models", "recipe_hash", "seed")
PATIENCE = 300.0  # seconds that a run may take on a busy machine
KILLED = -signal.SIGKILL


class Attempt:
    """One `winnow run` in a process of its own, which is a fork of one that has imported everything.

    Args:
        recipe: Path of the recipe.
        out: Output folder.
        workers: Worker processes.
        fault: What strikes it.
        options: Further arguments of the command.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        workers: int = 1,
        fault: Fault | None = None,
        options: Sequence[str] = (),
    ) -> None:
        arguments = ["run", str(recipe), "--output", str(out), "--workers", str(workers), *options]
        self.log = recipe.parent / "logs" / f"{time.monotonic_ns()}.log"
        self.log.parent.mkdir(exist_ok=True)
        self._process: BaseProcess = server().Process(target=_command, args=(arguments, fault, self.log))
        self._process.start()

    @property
    def pid(self) -> int:
        """Process id of the command."""
        return self._process.pid or 0

    @property
    def said(self) -> str:
        """What the command wrote to standard output and standard error so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
            return [child for child in children if _is_worker(child)]
        return []

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code; minus the signal's number when it was killed.

        Raises:
            AssertionError: If it does not end in time; it is killed then.
        """
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.kill_all()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.said}")
        return code

    def kill(self) -> None:
        """Kills the command alone; its workers find out by themselves."""
        self._process.kill()
        self._process.join()

    def kill_all(self) -> None:
        """Kills the command and its workers, as the kernel or a scheduler does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()

    def group_is_gone(self, seconds: float = 60.0) -> bool:
        """Whether every process that the command started ended within so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not _alive_in_group(self.pid):
                return True
            time.sleep(0.05)
        return False


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a Beam worker, and not the shell that waits for one."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        command = process.cmdline()
        return bool(command) and command[-1].endswith("sdk_worker_main") and "-c" not in command
    return False


def _alive_in_group(group: int) -> bool:
    for process in psutil.process_iter(["pid", "status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def server() -> multiprocessing.context.ForkServerContext:
    """The process that has imported everything, and from which others are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.loaded"])
    return context


def _command(arguments: list[str], fault: Fault | None, log: Path) -> None:
    """What the forked process does: the command, as `python -m pipelines.cli` would."""
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    site = log.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_FOR_WORKERS, "utf-8")
    os.environ["PYTHONPATH"] = f"{site}:{ROOT}"
    sys.path.insert(0, str(ROOT))
    import tests.crash.loaded  # noqa: F401 - there already in a fork of the server; sets the sizes of pieces
    from pipelines.cli import app

    if fault is not None:
        os.environ[VARIABLE] = fault.as_text()
        if fault.process == "driver":
            from tests.crash.faults import arm

            arm(fault)
    sys.argv = ["winnow", *arguments]
    app()


_FOR_WORKERS = """\
import sys
if any("sdk_worker_main" in part for part in sys.orig_argv):
    import connectors.examples
    connectors.examples.ROWS_PER_BATCH = 64
    from tests.crash.faults import arm_worker
    arm_worker()
"""


@dataclass(frozen=True)
class Outcome:
    """What a finished run left.

    Attributes:
        data: SHA-256 of every data file.
        manifest: What of the manifest depends neither on the clock nor on what was done before.
        files: Every file and folder of the output folder, the logs apart.
    """

    data: dict[str, str]
    manifest: dict[str, Any]
    files: frozenset[str]


def outcome(out: Path) -> Outcome:
    """Reads what a finished run left."""
    data = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in DATA_FOLDERS
        for path in sorted((out / folder).rglob("*"))
    }
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    files = frozenset(str(path.relative_to(out)) for path in out.rglob("*")) - set(LOGS)
    return Outcome(data, _settled(manifest), files)


def _settled(manifest: dict[str, Any]) -> dict[str, Any]:
    stages = {name: (stage["key"], stage["rows"]) for name, stage in manifest["stages"].items()}
    return {**{key: manifest[key] for key in SETTLED}, "stages": stages}


def differences(found: Outcome, wanted: Outcome) -> list[str]:
    """What is not as in the undisturbed run; none when all is well."""
    lines = [f"left over: {name}" for name in sorted(found.files - wanted.files)]
    lines += [f"missing: {name}" for name in sorted(wanted.files - found.files)]
    names = found.data.keys() & wanted.data.keys()
    lines += [f"other bytes: {name}" for name in sorted(names) if found.data[name] != wanted.data[name]]
    keys = sorted(found.manifest.keys() | wanted.manifest.keys())
    for key in keys:
        was, should = found.manifest.get(key), wanted.manifest.get(key)
        if was != should:
            lines.append(f"manifest {key}: {was} and not {should}")
    counts = found.manifest["counts"]
    if counts["read"] != counts["bad"] + counts["dropped"] + counts["kept"]:
        lines.append(f"books do not balance: {counts}")
    return lines


def finish(recipe: Path, out: Path, workers: int = 1) -> Outcome:
    """Runs the command undisturbed to its end.

    Raises:
        AssertionError: If it fails.
    """
    attempt = Attempt(recipe, out, workers)
    code = attempt.wait()
    assert code == 0, f"exit code {code}:\n{attempt.said}"
    return outcome(out)


def changes_of(out: Path, recipe: Path, snapshots: Path) -> list[Path]:
    """The states of the output folder before each change that a run makes, in order."""
    out.mkdir(exist_ok=True)
    fault = Fault(str(out), "snapshot", snapshots=str(snapshots))
    attempt = Attempt(recipe, out, fault=fault)
    assert attempt.wait() == 0, attempt.said
    return sorted(snapshots.iterdir())
