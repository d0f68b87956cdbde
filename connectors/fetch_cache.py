"""Copies of files that lie in object stores, one folder of them for each process.

The folder is removed when the process ends. One that a killed process left behind is removed by the next
process that makes one: a process holds a lock on its folder as long as it lives.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CACHE_BYTES = 16 * 2**30
CURRENT_SECONDS = 5.0  # how long a copy is taken for current without asking
IN_USE_SECONDS = 120.0  # what was asked for so recently may not be open yet, so it stays
_LOCK = "lock"


@dataclass
class _Copy:
    """One fetched file.

    Attributes:
        version: What the store held when it was fetched.
        file: Where the copy is.
        bytes: Its size.
        used: When it was last asked for, by the monotonic clock.
        checked: When it was last known to be current.
        fetching: Held while it is fetched, so that it is fetched once.
    """

    version: str = ""
    file: str = ""
    bytes: int = 0
    used: float = 0.0
    checked: float = float("-inf")
    fetching: threading.Lock = field(default_factory=threading.Lock)


class FetchCache:
    """Fetched files of this process, the least recently used ones removed when they take too much room.

    Args:
        limit: Bytes above which copies are removed; one in use stays whatever its size.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._copies: dict[str, _Copy] = {}
        self._folder = ""

    def get(self, path: str, version: Callable[[], str], fetch: Callable[[str], None]) -> str:
        """The copy of a file.

        Args:
            path: Where the file is.
            version: Asks for what tells its present content from an earlier one.
            fetch: Fetches it to the given path; an error leaves no copy.
        """
        with self._lock:
            copy = self._copies.setdefault(path, _Copy())
            copy.used = time.monotonic()
        with copy.fetching:
            if time.monotonic() - copy.checked > CURRENT_SECONDS:
                self._bring_up_to_date(path, copy, version(), fetch)
        self._make_room()
        return copy.file

    def _bring_up_to_date(self, path: str, copy: _Copy, version: str, fetch: Callable[[str], None]) -> None:
        if copy.version != version:
            digest = hashlib.sha256(f"{path}\n{version}\n{time.monotonic_ns()}".encode()).hexdigest()[:32]
            file = os.path.join(self._own_folder(), digest)
            fetch(f"{file}.tmp")
            os.replace(f"{file}.tmp", file)
            _remove(copy)
            copy.version, copy.file, copy.bytes = version, file, os.path.getsize(file)
        copy.checked = time.monotonic()

    def forget(self, path: str) -> None:
        """Drops the copy of a file that is about to be replaced or removed; whoever reads it may go on."""
        with self._lock:
            copy = self._copies.pop(path, None)
        _remove(copy)

    def _make_room(self) -> None:
        with self._lock:
            now, total = time.monotonic(), sum(copy.bytes for copy in self._copies.values())
            for path, copy in sorted(self._copies.items(), key=lambda item: item[1].used):
                if total <= self.limit or now - copy.used < IN_USE_SECONDS:
                    break
                total -= copy.bytes
                _remove(self._copies.pop(path))

    def _own_folder(self) -> str:
        with self._lock:
            if not self._folder:
                root = Path(tempfile.gettempdir(), f"winnow-fetched-{os.getuid()}")
                root.mkdir(mode=0o700, exist_ok=True)
                if root.stat().st_uid != os.getuid():
                    raise PermissionError(
                        f"{root} belongs to another user; set TMPDIR to a folder of your own"
                    )
                _remove_abandoned(root)
                self._folder = tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root)
                # held until the process ends
                held = os.open(os.path.join(self._folder, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder


def _remove(copy: _Copy | None) -> None:
    if copy is not None and copy.file:
        Path(copy.file).unlink(missing_ok=True)  # an open or mapped file stays readable


def _remove_abandoned(root: Path) -> None:
    for lock in root.glob(f"*/{_LOCK}"):
        with suppress(OSError), lock.open("w") as file:  # held: its process lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


CACHE = FetchCache()
