"""How many CPU cores there are to score on."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
