"""Faults that strike a run from within its own processes, at a stated change of its output folder.

Python announces every change of a file (sys.addaudithook), so that nothing that is written can be missed, and
the product needs no hook for tests. What Arrow writes by itself is announced by `WRITE`, once a row group.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

VARIABLE = "WINNOW_CRASH"  # environment variable that holds a Fault as JSON, for worker processes
WRITE = "crash.write"
CHANGES = ("open", WRITE, "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")
REMOVALS = ("os.remove", "os.rmdir", "os.rename")  # a full disk still does these
UNCOUNTED = ("progress", "workers.log")  # written by the clock, so that their number says nothing

Action = Literal["kill", "disk full", "read-only", "snapshot"]


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        out: Output folder of the run; only what changes below it counts.
        action: `kill` ends the process; `disk full` and `read-only` refuse this and all later changes;
            `snapshot` copies the folder as it is before this and every later change.
        point: Number of the change, from 1, among those of the process.
        process: Which processes the fault is for.
        snapshots: Where snapshots go.
    """

    out: str
    action: Action
    point: int = 1
    process: Literal["driver", "worker"] = "driver"
    snapshots: str = ""

    def as_text(self) -> str:
        """The fault as JSON."""
        return json.dumps(asdict(self))


class _Hook:
    """Counts the changes of the output folder in this process, and acts."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.changes = 0
        self.acting = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or self.acting or not self._counts(event, arguments):
            return
        self.changes += 1
        if self.changes < self.fault.point:
            return
        self.acting = True
        try:
            self._act(event)
        finally:
            self.acting = False

    def _counts(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        path = _full_path(arguments)
        if path is None or not path.startswith(self.fault.out):
            return False
        inside = Path(path).relative_to(self.fault.out).parts
        return not (inside[:1] == (".winnow",) and inside[1:2] and inside[1] in UNCOUNTED)

    def _act(self, event: str) -> None:
        action = self.fault.action
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "snapshot":
            target = Path(self.fault.snapshots, f"{self.changes:04d}")
            shutil.copytree(
                self.fault.out, target, ignore=shutil.ignore_patterns(*UNCOUNTED), copy_function=shutil.copy
            )
        elif action == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        elif event not in REMOVALS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_path(arguments: tuple[Any, ...]) -> str | None:
    """The path an event is about; removals name it below an open folder."""
    path = arguments[0]
    if not isinstance(path, str | os.PathLike):
        return None
    text = str(os.fspath(path))
    folder = arguments[-1]
    if not os.path.isabs(text) and len(arguments) > 1 and isinstance(folder, int) and folder >= 0:
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    return os.path.abspath(text)


def arm(fault: Fault) -> None:
    """Lets the fault strike this process; cannot be undone."""
    _announce_row_groups()
    sys.addaudithook(_Hook(fault))


def _announce_row_groups() -> None:
    import pyarrow.parquet as pq

    write_table: Callable[..., None] = pq.ParquetWriter.write_table

    def announced(writer: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as Arrow has it
        sys.audit(WRITE, str(writer.where))
        write_table(writer, *arguments, **options)

    pq.ParquetWriter.write_table = announced


def arm_worker() -> None:
    """Arms a worker process with the fault of its environment, if that is for workers."""
    text = os.environ.get(VARIABLE)
    if text and any("sdk_worker_main" in part for part in sys.orig_argv):
        fault = Fault(**json.loads(text))
        if fault.process == "worker":
            arm(fault)
