"""One run at a time in an output folder.

On a disk the operating system keeps the lock, and drops it when the process ends. An object store keeps none,
so a run puts a small file of its own beside its work, writes it again every REFRESH_SECONDS, and looks for
files of others; a store lists what was written as soon as it is written. A run asks first: of two that ask
at once the one whose file sorts first goes on, and one that holds the folder is never pushed out. A file that
was not refreshed for STALE_SECONDS by the store's clock, or whose process on this machine is gone, is of a
run that was killed and is removed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from connectors.manifest import read_manifest
from connectors.storage import (
    exists,
    file_times,
    holds_files,
    is_remote,
    join,
    make_folder,
    read_text,
    remove,
    write_text,
)
from pipelines.recipe import RecipeError
from pipelines.stages import Workspace

_LOG = logging.getLogger(__name__)

PUBLISHED_FOLDERS = ("train", "dropped", "bad_rows", "scores", "suspects")
PUBLISHED_FILES = ("report.html", "report-against.html", "README.md", "manifest.json")
REFRESH_SECONDS = 20.0
STALE_SECONDS = 90.0
LOOK_AGAIN_SECONDS = 0.5
_LOCK_NAME = re.compile(r"lock-[0-9a-f]{32}\.json")


class OutputInUse(RecipeError):  # noqa: N818 - reads as what happened
    """Another run is writing to the output folder."""


@contextmanager
def sole_user(space: Workspace) -> Iterator[None]:
    """Holds the output folder for this process alone; refuses one that holds what is not ours.

    Raises:
        OutputInUse: If another run is writing there.
        RecipeError: If the folder holds files of something else.
        OSError: If the place cannot be written to.
    """
    _refuse_strangers(str(space.out), space.work)
    if not is_remote(space.work):
        with _locked_file(Path(space.work)):
            yield
        return
    lock = StoreLock(space.work)
    lock.acquire()
    space.check_lock = lock.check
    try:
        yield
    finally:
        lock.release()


def _refuse_strangers(out: str, work: str) -> None:
    strange = [name for name in PUBLISHED_FOLDERS if holds_files(join(out, name))]
    strange += [name for name in PUBLISHED_FILES if exists(join(out, name))]
    if strange and not holds_files(work) and not _is_run(out):
        raise RecipeError(
            f"{out} holds {', '.join(strange)}, which no winnow run put there and which a run would "
            "replace. Give another --output."
        )


def _is_run(out: str) -> bool:
    try:
        return "winnow_version" in read_manifest(out)
    except ValueError:
        return False


@contextmanager
def _locked_file(work: Path) -> Iterator[None]:
    make_folder(work)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputInUse(_refusal(str(work.parent))) from error
        yield


def _refusal(out: str, who: str = "") -> str:
    return f"{out}: another winnow run is writing here{who}. Wait for it, or give this one another --output."


class StoreLock:
    """A lock on a folder of an object store.

    Args:
        folder: Where the files of the runs that want it are.
        refresh: Seconds between two refreshments.
        stale: Seconds without one after which a lock counts for nothing.
    """

    def __init__(self, folder: str, refresh: float = REFRESH_SECONDS, stale: float = STALE_SECONDS) -> None:
        self.folder = folder
        self.refresh = refresh
        self.stale = stale
        self.name = f"lock-{uuid.uuid4().hex}.json"
        self._released = threading.Event()
        self._written = 0.0  # by the monotonic clock
        self._thread = threading.Thread(target=self._keep, name="winnow lock", daemon=True)

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            OutputInUse: If another run has it.
        """
        try:
            self._write("asking")
            while rivals := self._rivals():
                for name, rival in rivals.items():
                    if rival["state"] == "holding" or name < self.name:
                        raise OutputInUse(_refusal(self.folder.rpartition("/")[0], _who(rival)))
                time.sleep(LOOK_AGAIN_SECONDS)
            self._write("holding")
        except BaseException:
            self._remove()
            raise
        self._thread.start()

    def check(self) -> None:
        """Raises RuntimeError when the store was out of reach so long that another run may have begun."""
        silent = time.monotonic() - self._written
        if silent > self.stale:
            raise RuntimeError(
                f"{self.folder}: the store took no word from this run for {silent:.0f} s, so another run may "
                "have begun there. Nothing was published; run again to go on."
            )

    def release(self) -> None:
        """Gives the lock back."""
        self._released.set()
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):  # it grows stale by itself
            remove([join(self.folder, self.name)])

    def _keep(self) -> None:
        while not self._released.wait(self.refresh):
            try:
                self._write("holding")
            except OSError as error:
                _LOG.warning("%s: the lock could not be refreshed: %s", self.folder, error)

    def _write(self, state: Literal["asking", "holding"]) -> None:
        write_text(join(self.folder, self.name), json.dumps({**_this_process(), "state": state}))
        self._written = time.monotonic()

    def _rivals(self) -> dict[str, dict[str, Any]]:
        """The living locks of others, by name; removes the dead ones."""
        times = file_times(self.folder)
        now = times.get(self.name, 0.0) + time.monotonic() - self._written
        living, dead = {}, []
        for name, written in times.items():
            old = now - written > self.stale
            if name == self.name or not name.startswith("lock-"):
                continue
            if _LOCK_NAME.fullmatch(name) and not old and (rival := self._read(name)) is not None:
                living[name] = rival
            elif old or _LOCK_NAME.fullmatch(name):
                dead.append(join(self.folder, name))
        remove(dead)
        return living

    def _read(self, name: str) -> dict[str, Any] | None:
        """What a lock says; None for one that was given back, or whose process was killed on this machine."""
        try:
            rival: dict[str, Any] = json.loads(read_text(join(self.folder, name)))
        except FileNotFoundError:
            return None
        this = _this_process()
        same_machine = rival["host"] == this["host"] and rival["processes"] == this["processes"]
        return None if same_machine and not _lives(rival["pid"], rival["began"]) else rival


def _who(rival: dict[str, Any]) -> str:
    ends = f"if it was killed, its lock ends after {STALE_SECONDS:.0f} s"
    return f" (process {rival['pid']} on {rival['host']}; {ends})"


def _this_process() -> dict[str, Any]:
    """What tells this process from others on this and other machines and containers."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux: one numbering of processes for the machine
        processes = ""
    began = psutil.Process().create_time()
    return {"host": socket.gethostname(), "processes": processes, "pid": os.getpid(), "began": began}


def _lives(pid: int, began: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - began) < 1.0)
    except psutil.NoSuchProcess:
        return False
