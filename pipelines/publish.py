"""Putting the files of a finished run in place, so that nobody takes a part for the whole.

manifest.json is what says that a run is complete: it is taken away first and written last, and it lists the
files of each output with their bytes. On a disk the files are hard links to those of the stages, and each
output folder is put in place by one rename. An object store has neither links nor renames: each file is
copied to its final name by the store itself, then what an earlier run left there is removed. Without a
manifest, or with other files than it lists, what is there is on its way from one run to the next.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from connectors.manifest import MANIFEST
from connectors.storage import (
    copy_files,
    file_name,
    file_names,
    file_sizes,
    is_remote,
    join,
    remove,
    remove_files,
    remove_folder,
)
from pipelines.emit import OUTPUTS, output_file
from pipelines.ingest import bad_path
from pipelines.stages import StageResult, Workspace

Outputs = dict[str, dict[str, str]]
"""For each output the published name of each file, and the file."""


def publish(
    space: Workspace, ingested: StageResult, emitted: StageResult, suspects: StageResult | None = None
) -> dict[str, dict[str, int]]:
    """Puts the output folders in place; takes away the manifest of an earlier run first.

    Returns:
        For each output the names of its files with their bytes, for the manifest.
    """
    outputs: Outputs = {
        output: {name: join(emitted.folder, name) for name in (output_file(f, output) for f in emitted.files)}
        for output in OUTPUTS
    }
    if suspects is not None:
        outputs["suspects"] = {file_name(path): path for path in suspects.paths}
    outputs["bad_rows"] = _bad_files(ingested)
    _publish(space, outputs)
    if suspects is None:  # of an earlier decision
        remove_folder(join(str(space.out), "suspects"))
    return {output: file_sizes(join(str(space.out), output)) for output in outputs}


def publish_bad_rows(space: Workspace, ingested: StageResult) -> str:
    """Puts only the bad rows in place, for a run that fails because of them."""
    _publish(space, {"bad_rows": _bad_files(ingested)})
    return join(str(space.out), "bad_rows")


def _bad_files(ingested: StageResult) -> dict[str, str]:
    count = len(ingested.files)
    return {
        f"bad_rows-{index:05d}-of-{count:05d}.parquet": bad_path(path)
        for index, path in enumerate(ingested.paths)
    }


def _publish(space: Workspace, outputs: Outputs) -> None:
    space.check_lock()
    out = str(space.out)
    remove([join(out, MANIFEST), join(out, "report-against.html")])  # the latter compares an older decision
    remove_files(out, ending=".tmp")  # of a run that was killed while it wrote its report
    if is_remote(out):
        _copy(out, outputs)
    else:
        _link_and_rename(Path(space.work, "publish"), Path(out), outputs)


def _copy(out: str, outputs: Outputs) -> None:
    copy_files(
        (file, join(out, output, name)) for output, files in outputs.items() for name, file in files.items()
    )
    for output, files in outputs.items():
        folder = join(out, output)
        remove([join(folder, name) for name in file_names(folder) if name not in files])


def _link_and_rename(staging: Path, out: Path, outputs: Outputs) -> None:
    """Links the files of each output under their published names, then renames the folders into place."""
    shutil.rmtree(staging, ignore_errors=True)
    for output, files in outputs.items():
        (staging / output).mkdir(parents=True)
        for name, file in files.items():
            _link(file, staging / output / name)
    for output in outputs:
        replace_folder(staging / output, out / output)
    shutil.rmtree(staging)


def _link(file: str, name: Path) -> None:
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
