"""`winnow export`: writes the training set of a finished run for a trainer, whole or not at all.

A format that cannot carry a weight or a mask would train on something else than what was selected, so an
export that loses one is refused, with the formats that keep it, unless the caller says that it may.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.export.folder import check_target, export_folder
from pipelines.export.formats import FORMATS, formats_that_carry
from pipelines.export.rows import Losses, RunOutput, Written


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        format: Its name.
        folder: Where it is.
        written: Rows and tokens.
        losses: What was lost, by permission.
        usage: Lines that use it.
    """

    format: str
    folder: Path
    written: Written
    losses: Losses
    usage: str


def export(
    out: str | Path, format_name: str, to: str | Path | None = None, *, lossy: bool = False
) -> Exported:
    """Writes the training set of a run for a trainer.

    Args:
        out: Output folder of a finished run.
        format_name: A key of FORMATS.
        to: Folder to write; default OUT/exports/FORMAT. An earlier export there is replaced.
        lossy: Write although weights, masks or rows are lost.

    Raises:
        ValueError: If there is no such format, no finished run, or no row in it; if the folder holds other
            files; or if something would be lost and `lossy` is False. Nothing is written then.
    """
    if format_name not in FORMATS:
        near = difflib.get_close_matches(format_name, FORMATS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no format {format_name!r}{hint} Formats: {', '.join(FORMATS)}")
    run = RunOutput.open(out)
    if not run.rows:
        raise ValueError(f"{out} kept no row, so there is nothing to export")
    target = Path(to) if to is not None else run.out / "exports" / format_name
    _check_place(run.out, target)
    chosen = FORMATS[format_name]
    losses = Losses()
    facts: dict[str, Any] = {"format": format_name, "recipe_hash": run.manifest.get("recipe_hash")}
    with export_folder(target, facts) as folder:
        written = chosen.write(run, folder, losses)
        if losses and not lossy:
            raise ValueError(_refusal(format_name, losses, run.rows))
        if not written.rows:
            raise ValueError(f"no row of {out} fits {format_name}: {_reasons(losses.left_out, losses)}")
        facts |= {"rows": written.rows, "lost": losses.counts, "left_out": losses.left_out}
    return Exported(format_name, target, written, losses, chosen.usage(run, target))


def _check_place(out: Path, target: Path) -> None:
    """Refuses to write over a run, or into what a run writes."""
    own, place = out.resolve(), target.resolve()
    if own == place or place in own.parents:
        raise ValueError(f"--to {target} holds the run itself; name another folder")
    inside = place.relative_to(own).parts if own in place.parents else ()
    if inside and inside[0] != "exports" and (own / inside[0]).exists():
        raise ValueError(f"--to {target} is in a folder of the run; name another, or leave --to away")
    check_target(target)


def _refusal(name: str, losses: Losses, rows: int) -> str:
    """What would be lost, which formats keep it, and how to go on without."""
    sentences = []
    for what, count in losses.counts.items():
        keep = formats_that_carry(what) or formats_that_carry("token masks")
        others = ", ".join(one for one in keep if one != name)
        sentences.append(
            f"{name} cannot carry {what}: {count:,} of {rows:,} rows have some "
            f"(first: {losses.first[what]}). Formats that keep them: {others}."
        )
    if losses.left_out:
        sentences.append(
            f"{name} has no way to write {sum(losses.left_out.values()):,} of {rows:,} rows: "
            f"{_reasons(losses.left_out, losses)}. `--format datasets` keeps every row."
        )
    return "\n".join([*sentences, "Nothing was written. To write it without them: --lossy"])


def _reasons(counts: dict[str, int], losses: Losses) -> str:
    return "; ".join(
        f"{reason} ({count:,}, first: {losses.first[reason]})" for reason, count in counts.items()
    )


def export_text(done: Exported) -> str:
    """What an export wrote, and how to use it."""
    written = done.written
    tokens = f", {written.tokens:,} tokens, {written.trained:,} of them trained on" if written.tokens else ""
    lines = [f"Wrote {done.folder}: {written.rows:,} rows{tokens} ({FORMATS[done.format].what})."]
    lines += [f"Lost: {what} of {count:,} rows." for what, count in done.losses.counts.items()]
    if done.losses.left_out:
        lines.append(f"Left out: {_reasons(done.losses.left_out, done.losses)}.")
    return "\n".join([*lines, *written.notes, "", "To use it:", "", done.usage])
