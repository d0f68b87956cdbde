"""Fuzzes the readers and the recipes: `python -m tests.fuzz --cases 1000000 [--seed 0]`.

`--seed N --cases 1` runs a case again.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.watch import watch


def main() -> int:
    """Runs the cases and prints the faults; the exit status says whether there were any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others count on from it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    given = parser.parse_args()
    started = time.monotonic()
    at, end, faults = given.seed, given.seed + given.cases, 0
    while at < end and time.monotonic() - started < 60 * given.minutes:
        at, found = watch(at, end, started + 60 * given.minutes)
        for fault in found:
            faults += 1
            print(fault, flush=True)  # noqa: T201 - a script
    seconds = time.monotonic() - started
    done = at - given.seed
    print(f"{done:,} cases from seed {given.seed}, {done / seconds:,.0f} cases/s, {faults} faults")  # noqa: T201
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
