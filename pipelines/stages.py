"""Running one stage of a run: keyed by its settings and its input, resumed file by file.

A stage turns tasks into files, one file for one task (its name is `task.file`), in a folder of its own named
after the stage's key. The key hashes the stage's settings and the keys of the stages it reads, so a changed
setting gives a new folder and everything else is found done. A task whose file is there is not done again;
`done.json` is written last.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from connectors.manifest import json_hash
from connectors.shards import write_json
from connectors.storage import (
    file_name,
    file_names,
    folder_names,
    is_remote,
    join,
    make_folder,
    read_text,
    remove,
    remove_folder,
)
from pipelines.metrics import stage_metrics
from pipelines.progress import Progress
from pipelines.runner import RunnerChoice, run_pipeline

if TYPE_CHECKING:
    import apache_beam as beam

WORK = ".winnow"
DONE = "done.json"
LAYOUT = 5  # raise when the files of a stage change meaning: older work is then done again


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
        metrics: What the run that finished it counted, see pipelines/metrics.py.
    """

    name: str
    key: str
    folder: str
    files: tuple[str, ...]
    seconds: float
    stats: dict[str, Any]
    resumed: bool = False
    reused: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Rows per second, None when it was not measured over all rows."""
        rows = self.stats.get("rows")
        return rows / self.seconds if rows and self.seconds and not self.resumed else None

    @property
    def paths(self) -> list[str]:
        """Full paths of the files, in task order."""
        return [join(self.folder, name) for name in self.files]


@dataclass
class Workspace:
    """Where a run keeps its work and how it executes pipelines.

    Attributes:
        out: The output folder, absolute; may be in an object store.
        runner: How pipelines are executed.
        progress: Where to say how far it is.
        check_lock: Raises when the output folder may have passed to another run.
    """

    out: str | Path
    runner: RunnerChoice
    progress: Progress
    check_lock: Callable[[], None] = lambda: None

    @property
    def work(self) -> str:
        """The folder of unfinished and reusable work inside the output folder."""
        return join(str(self.out), WORK)

    @cached_property
    def local(self) -> Path:
        """Folder of this machine for counts and logs: the work folder, or for a store a temporary one."""
        if not is_remote(self.out):
            return Path(self.work)
        folder = tempfile.mkdtemp(prefix="winnow-run-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def counts(self, stage: str) -> str:
        """Folder for the progress counts of a stage."""
        return str(self.local / "progress" / stage)


def stage_key(name: str, settings: Any, inputs: Sequence[StageResult]) -> str:  # noqa: ANN401 - any JSON
    """Hash that changes exactly when the stage has to be done again; another winnow may compute otherwise."""
    version = importlib.metadata.version("winnow")
    return json_hash([LAYOUT, version, name, settings, [stage.key for stage in inputs]])[:16]


def load_stage(folder: str | Path) -> StageResult | None:
    """The finished stage in a folder, None when it is not finished or has lost a file."""
    names = set(file_names(folder))
    if DONE not in names:
        return None
    record = json.loads(read_text(join(str(folder), DONE)))
    if not names.issuperset(record["files"]):
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
        metrics=record.get("metrics", {}),  # older winnows kept none
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
    folder = join(space.work, f"{name}-{key}")
    done = load_stage(folder)
    if done is not None:
        return done
    make_folder(folder)
    there = set(file_names(folder))
    todo = [task for task in tasks if task.file not in there]
    began, metrics = time.monotonic(), {}
    if todo:
        left = total * len(todo) // len(tasks)

        def share_done() -> float:
            names = set(file_names(folder))
            return sum(task.file in names for task in todo) / len(todo)

        watch = share_done if is_remote(space.out) else None
        with space.progress.stage(name, Path(space.counts(name)), left, unit, watch):
            result = run_pipeline(
                space.runner,
                lambda pipeline: _tasks_then(pipeline, name, todo, lambda tasks: build(tasks, folder)),
                parallel=parallel and (spread or len(todo) > 1),
                log=space.local / "workers.log",
            )
            metrics = stage_metrics(result, name)
    there = set(file_names(folder))
    missing = [task.file for task in tasks if task.file not in there]
    if missing:
        raise RuntimeError(
            f"stage {name}: {len(missing)} of {len(tasks)} files are missing, "
            f"first {join(folder, missing[0])}. "
            "Workers on other machines must see the output folder under the same path: a shared file system, "
            "or an object store (s3://, gs://)."
        )
    remove(join(folder, name) for name in there if name.endswith(".tmp"))
    stage = StageResult(
        name=name,
        key=key,
        folder=folder,
        files=tuple(task.file for task in tasks),
        seconds=round(time.monotonic() - began, 3),
        stats=summarise([join(folder, task.file) for task in tasks]),
        resumed=len(todo) < len(tasks),
        metrics=metrics,
    )
    record = {k: v for k, v in asdict(stage).items() if k not in ("folder", "reused")}
    write_json(join(folder, DONE), record)
    return stage


def _tasks_then(
    pipeline: beam.Pipeline, name: str, todo: Sequence[Task], build: Callable[[beam.PCollection], Any]
) -> None:
    import apache_beam as beam

    tasks = pipeline | f"{name}: tasks" >> beam.Create(list(todo), reshuffle=len(todo) > 1)
    build(tasks)


def prune_stages(space: Workspace, keep: Sequence[StageResult]) -> None:
    """Removes the stage folders that the finished run does not use, and its progress counts."""
    kept = {file_name(stage.folder) for stage in keep}
    for name in folder_names(space.work):
        if name not in kept:
            remove_folder(join(space.work, name))
