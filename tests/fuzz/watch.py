"""Cases in a process of their own: one that hangs, or ends the process, is a fault like any other."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.check import check_case

LIMIT_S = 30.0
MEMORY_KIB = 2 * 2**20
CASES_OF_A_PROCESS = 50_000  # a process grows by some 7 KB a case, in Arrow and the allocator, not in Python
_REPORT_EVERY = 500  # cases


def watch(at: int, end: int, until: float) -> tuple[int, list[str]]:
    """Runs cases in a new process until they are done, time is up, or it dies; the next seed, and faults."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    current = context.Value("q", at)
    worker = context.Process(target=_work, args=(at, end, until, current, theirs), daemon=True)
    worker.start()
    theirs.close()
    faults: list[str] = []
    seen, since = -1, time.monotonic()
    while True:
        try:
            while ours.poll(1.0):
                faults.append(ours.recv())
        except EOFError:
            worker.join()
            break
        now = time.monotonic()
        if current.value != seen:
            seen, since = current.value, now
        elif now - since > LIMIT_S + 10:  # the start of the process takes some seconds too
            worker.kill()
            worker.join()
            return seen + 1, [*faults, f"seed {seen}: took longer than {LIMIT_S:g} s"]
    if worker.exitcode:
        return current.value + 1, [*faults, f"seed {current.value}: the process ended with {worker.exitcode}"]
    return current.value, faults


def _work(at: int, end: int, until: float, current: object, faults: Connection) -> None:
    import resource

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108
        for seed in range(at, min(end, at + CASES_OF_A_PROCESS)):
            current.value = seed  # type: ignore[attr-defined]  # a shared number has no public type
            try:
                check_case(seed, Path(folder))
            except Exception:  # noqa: BLE001 - whatever escapes is what is looked for
                faults.send(f"seed {seed}: {traceback.format_exc()}")
            # Looked at afterwards: a limit would starve Arrow's pool.
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MEMORY_KIB:
                faults.send(f"seed {seed}: took more than {MEMORY_KIB / 2**20:g} GiB of memory")
                current.value = seed + 1  # type: ignore[attr-defined]
                break  # the highest use of a process never falls: a new one goes on
            if seed % _REPORT_EVERY == 0 and time.monotonic() > until:
                break
        current.value = seed + 1  # type: ignore[attr-defined]
