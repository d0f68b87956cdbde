"""Resuming from every state that a kill can leave behind: before each change of the output folder, in turn.

One run gives all the states, as copies of its folder before each change; they are what a SIGKILL just then
would leave. One process resumes from all of them, which costs a fraction of starting the command each time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.crash.harness import PATIENCE, ROOT, Attempt, changes_of, differences, outcome, server
from tests.crash.rounds import Undisturbed

EARLIER = ("--set", "select.1.q_tuning.keep=0.3")  # what an earlier run in the same folder did


def states_over_an_earlier_run(undisturbed: Undisturbed, out: Path, snapshots: Path) -> list[Path]:
    """The states of a folder in which a finished run of other settings is replaced, in order."""
    earlier = Attempt(undisturbed.recipe, out, options=EARLIER)
    assert earlier.wait() == 0, earlier.said
    return changes_of(out, undisturbed.recipe, snapshots)


def wrong_after_resuming(undisturbed: Undisturbed, out: Path, states: Sequence[Path]) -> list[str]:
    """Resumes from each state; says what then is not as in the undisturbed run, none when all is well."""
    found = undisturbed.folder / f"{out.name}.found"
    process = server().Process(target=_resume_from, args=(undisturbed, out, list(states), found))
    process.start()
    process.join(PATIENCE + 20 * len(states))
    if process.exitcode != 0:
        process.kill()
        return [f"resuming ended with {process.exitcode}: {found.read_text('utf-8')}"]
    return found.read_text("utf-8").splitlines()


def _resume_from(undisturbed: Undisturbed, out: Path, states: list[Path], found: Path) -> None:
    sys.path.insert(0, str(ROOT))
    import tests.crash.loaded  # noqa: F401 - sets the sizes of pieces before anything else is imported
    from pipelines.progress import Progress
    from pipelines.recipe_file import load_recipe
    from pipelines.run import run
    from pipelines.runner import RunnerChoice

    recipe = load_recipe(undisturbed.recipe)
    with found.open("w", encoding="utf-8") as file:
        for state in states:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(state, out)
            run(recipe, out, RunnerChoice(), Progress())
            for line in differences(outcome(out), undisturbed.outcome):
                file.write(f"before change {state.name}: {line}\n")
            file.flush()
