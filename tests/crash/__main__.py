"""The long mode: `python -m tests.crash --rounds 100 --seed 0` disturbs runs at random and compares.

With `--every-change 1` it then resumes from the state before each change of the output folder, of a first run
and of one that replaces an earlier one. A failed round is repeated with `--first NUMBER --rounds 1`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.crash.changes import states_over_an_earlier_run, wrong_after_resuming
from tests.crash.rounds import QUICK, WITH_WORKERS, Undisturbed, play, run_undisturbed


def main() -> int:
    """Plays the rounds; returns 1 when one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a kind of disturbance; may be repeated")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat one")
    parser.add_argument("--every-change", type=int, metavar="N", help="resume from every Nth state as well")
    options = parser.parse_args()
    failed = Counter[str]()
    passed = Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="winnow-crash-"))
    undisturbed = run_undisturbed(folder)
    _say(f"undisturbed: {undisturbed.seconds:.1f} s, {len(undisturbed.states)} changes; in {folder}")
    for number in range(options.first, options.first + options.rounds):
        name, ok = _round(undisturbed, options.seed, number, options.only)
        (passed if ok else failed)[name] += 1
    if options.every_change:
        for name, ok in _states(undisturbed, options.every_change):
            (passed if ok else failed)[name] += 1
    _say(f"seed {options.seed}: {passed.total()} passed, {failed.total()} failed")
    for name in sorted({*passed, *failed}):
        _say(f"  {name:<32} {passed[name]:>4} passed {failed[name]:>4} failed")
    return 1 if failed else 0


def _round(undisturbed: Undisturbed, seed: int, number: int, only: list[str] | None) -> tuple[str, bool]:
    """The kind of the round, and whether it passed."""
    draw = random.Random(f"{seed}-{number}")
    # Every fifth round has worker processes, which take ten times as long to start.
    turn, place = divmod(number, 5)
    disturb = WITH_WORKERS[turn % len(WITH_WORKERS)] if place == 4 else QUICK[(4 * turn + place) % len(QUICK)]
    if only:
        chosen = [kind for kind in (*QUICK, *WITH_WORKERS) if kind.__name__ in only]
        disturb = chosen[number % len(chosen)]
    times = 1 if disturb in WITH_WORKERS else draw.randint(1, 2)
    began = time.monotonic()
    try:
        text, ok = play(undisturbed, disturb, f"{seed}-{number}", times), True
    except PermissionError as error:
        text, ok = f"skipped: {error}", True
    except AssertionError:
        text, ok = f"FAILED, see round-{seed}-{number}\n{traceback.format_exc()}", False
    _say(f"{number:>4} {disturb.__name__:<32} {time.monotonic() - began:>5.1f} s  {text}")
    return disturb.__name__, ok


def _states(undisturbed: Undisturbed, step: int) -> Iterator[tuple[str, bool]]:
    """Whether resuming gives the same files, for every `step`th state that a run goes through."""
    folder = undisturbed.folder
    over = states_over_an_earlier_run(undisturbed, folder / "over", folder / "states-over")
    for name, states in (("states of a first run", undisturbed.states), ("states over an earlier run", over)):
        for state in states[::step]:
            wrong = wrong_after_resuming(undisturbed, folder / "resumed", [state])
            if wrong:
                _say("\n".join([f"FAILED {name}", *wrong]))
            yield name, not wrong


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's output


if __name__ == "__main__":
    sys.exit(main())
