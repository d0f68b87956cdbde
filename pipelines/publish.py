"""Putting the files of a finished run in place, each output folder by one rename."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from connectors.manifest import MANIFEST
from pipelines.emit import OUTPUTS, output_file
from pipelines.ingest import bad_path
from pipelines.stages import StageResult, Workspace


def publish(
    space: Workspace, ingested: StageResult, emitted: StageResult, suspects: StageResult | None = None
) -> None:
    """Puts the output folders in place, each by one rename; takes away the manifest of an earlier run first.

    The files are hard links to those of the stages, so nothing is stored twice.
    """
    folder = Path(emitted.folder)
    outputs = {
        output: {name: folder / name for name in (output_file(file, output) for file in emitted.files)}
        for output in OUTPUTS
    }
    if suspects is not None:
        outputs["suspects"] = {Path(path).name: Path(path) for path in suspects.paths}
    _publish(space, {**outputs, "bad_rows": _bad_files(ingested)})
    if suspects is None:  # of an earlier decision
        shutil.rmtree(space.out / "suspects", ignore_errors=True)


def publish_bad_rows(space: Workspace, ingested: StageResult) -> Path:
    """Puts only the bad rows in place, for a run that fails because of them."""
    _publish(space, {"bad_rows": _bad_files(ingested)})
    return space.out / "bad_rows"


def _bad_files(ingested: StageResult) -> dict[str, Path]:
    count = len(ingested.files)
    return {
        f"bad_rows-{index:05d}-of-{count:05d}.parquet": Path(bad_path(path))
        for index, path in enumerate(ingested.paths)
    }


def _publish(space: Workspace, outputs: dict[str, dict[str, Path]]) -> None:
    """Links the files of each output under their published names, then renames the folders into place."""
    staging = space.work / "publish"
    shutil.rmtree(staging, ignore_errors=True)
    for output, files in outputs.items():
        (staging / output).mkdir(parents=True)
        for name, file in files.items():
            _link(file, staging / output / name)
    (space.out / MANIFEST).unlink(missing_ok=True)
    for leftover in space.out.glob("*.tmp"):  # of a run that was killed while it wrote its report
        leftover.unlink()
    for output in outputs:
        replace_folder(staging / output, space.out / output)
    shutil.rmtree(staging)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, name)


def replace_folder(new: Path, old: Path) -> None:
    """Renames `new` to `old`, which may exist."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
