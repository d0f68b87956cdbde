"""Running one stage of a run: keyed by its settings and its input, resumed file by file.

A stage turns tasks into files, one file for one task (its name is `task.file`), in a folder of its own named
after the stage's key. The key hashes the stage's settings and the keys of the stages it reads, so a changed
setting gives a new folder and everything else is found done. A task whose file is there is not done again;
`done.json` is written last.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from connectors.manifest import json_hash
from connectors.shards import write_json
from pipelines.progress import Progress
from pipelines.runner import RunnerChoice, run_pipeline

if TYPE_CHECKING:
    import apache_beam as beam

WORK = ".winnow"
LAYOUT = 3  # raise when the files of a stage change meaning: older work is then done again


class Task(Protocol):
    """One piece of a stage's work; picklable."""

    @property
    def file(self) -> str:
        """Name of the file it makes in the stage's folder."""
        ...


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        name: Stage name.
        key: Hash of its settings and of what it read.
        folder: Where its files are.
        files: Their names, in task order.
        seconds: Wall time of the run that finished it.
        stats: Numbers for the manifest, made by the stage.
        resumed: Part of it was done by an earlier run, so that `seconds` says nothing of its speed.
        reused: True when nothing had to be done.
    """

    name: str
    key: str
    folder: str
    files: tuple[str, ...]
    seconds: float
    stats: dict[str, Any]
    resumed: bool = False
    reused: bool = False

    @property
    def rate(self) -> float | None:
        """Rows per second, None when it was not measured over all rows."""
        rows = self.stats.get("rows")
        return rows / self.seconds if rows and self.seconds and not self.resumed else None

    @property
    def paths(self) -> list[str]:
        """Full paths of the files, in task order."""
        return [str(Path(self.folder) / name) for name in self.files]


@dataclass
class Workspace:
    """Where a run keeps its work and how it executes pipelines."""

    out: Path
    runner: RunnerChoice
    progress: Progress

    @property
    def work(self) -> Path:
        """The folder of unfinished and reusable work inside the output folder."""
        return self.out / WORK

    def counts(self, stage: str) -> str:
        """Folder for the progress counts of a stage."""
        return str(self.work / "progress" / stage)


def stage_key(name: str, settings: Any, inputs: Sequence[StageResult]) -> str:  # noqa: ANN401 - any JSON
    """Hash that changes exactly when the stage has to be done again; another winnow may compute otherwise."""
    version = importlib.metadata.version("winnow")
    return json_hash([LAYOUT, version, name, settings, [stage.key for stage in inputs]])[:16]


def load_stage(folder: Path) -> StageResult | None:
    """The finished stage in a folder, None when it is not finished or has lost a file."""
    done = folder / "done.json"
    if not done.exists():
        return None
    record = json.loads(done.read_text("utf-8"))
    if not all((folder / name).exists() for name in record["files"]):
        return None
    return StageResult(
        name=record["name"],
        key=record["key"],
        folder=str(folder),
        files=tuple(record["files"]),
        seconds=record["seconds"],
        stats=record["stats"],
        resumed=record["resumed"],
        reused=True,
    )


def run_stage(
    space: Workspace,
    name: str,
    settings: Any,  # noqa: ANN401 - any JSON
    inputs: Sequence[StageResult],
    tasks: Sequence[Task],
    build: Callable[[beam.PCollection, str], Any],
    *,
    total: int,
    unit: str = "rows",
    parallel: bool = True,
    spread: bool = False,
    summarise: Callable[[list[str]], dict[str, Any]] = lambda _: {},
) -> StageResult:
    """Runs a stage, or finds it done.

    Args:
        space: The run's workspace.
        name: Stage name.
        settings: Everything that shapes its result, as JSON.
        inputs: The stages it reads.
        tasks: Its work, in the order of the result.
        build: Adds the stage's steps to a PCollection of tasks; writes `task.file` into the given folder.
        total: Rows or bytes to do, for the progress line.
        unit: What `total` counts.
        parallel: False keeps the stage in one process whatever the number of workers.
        spread: The steps spread a single task over the workers themselves.
        summarise: Makes the stage's numbers from the paths of its files.

    Raises:
        RuntimeError: If a task left no file.
    """
    key = stage_key(name, settings, inputs)
    folder = space.work / f"{name}-{key}"
    done = load_stage(folder)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    todo = [task for task in tasks if not (folder / task.file).exists()]
    began = time.monotonic()
    if todo:
        left = total * len(todo) // len(tasks)
        with space.progress.stage(name, Path(space.counts(name)), left, unit):
            run_pipeline(
                space.runner,
                lambda pipeline: _tasks_then(pipeline, name, todo, lambda tasks: build(tasks, str(folder))),
                parallel=parallel and (spread or len(todo) > 1),
                log=space.work / "workers.log",
            )
    missing = [task.file for task in tasks if not (folder / task.file).exists()]
    if missing:
        raise RuntimeError(
            f"stage {name}: {len(missing)} of {len(tasks)} files are missing, first {folder / missing[0]}. "
            "Workers on other machines must see the output folder under the same path (a shared file system)."
        )
    _remove_temporary(folder)
    result = StageResult(
        name=name,
        key=key,
        folder=str(folder),
        files=tuple(task.file for task in tasks),
        seconds=round(time.monotonic() - began, 3),
        stats=summarise([str(folder / task.file) for task in tasks]),
        resumed=len(todo) < len(tasks),
    )
    record = {k: v for k, v in asdict(result).items() if k not in ("folder", "reused")}
    write_json(folder / "done.json", record)
    return result


def _tasks_then(
    pipeline: beam.Pipeline, name: str, todo: Sequence[Task], build: Callable[[beam.PCollection], Any]
) -> None:
    import apache_beam as beam

    tasks = pipeline | f"{name}: tasks" >> beam.Create(list(todo), reshuffle=len(todo) > 1)
    build(tasks)


def _remove_temporary(folder: Path) -> None:
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def prune_stages(space: Workspace, keep: Sequence[StageResult]) -> None:
    """Removes the stage folders that the finished run does not use, and its progress counts."""
    kept = {Path(stage.folder).name for stage in keep}
    for folder in space.work.iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
