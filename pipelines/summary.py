"""What happened in a run, as the command prints it at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.run import Finished


def print_summary(finished: Finished) -> None:
    """Prints stages, counts and where the results are."""
    manifest = finished.manifest
    console = Console(highlight=False)
    table = Table(title=f"{manifest['name']}: what happened", title_justify="left", box=None, pad_edge=False)
    for heading, justify in (
        ("stage", "left"),
        ("rows", "right"),
        ("seconds", "right"),
        ("rows/s", "right"),
        ("tokens/s", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type] # rich narrows to its literals
    for name, stage in manifest["stages"].items():
        seconds = f"{stage['seconds']:.1f}" + (" (done before)" if stage["reused"] else "")
        table.add_row(
            name, f"{stage['rows']:,}", seconds, _rate(stage, "rows_per_s"), _rate(stage, "tokens_per_s")
        )
    console.print(table)
    console.print(f"whole run {manifest['seconds']:.1f} s")
    console.print(_counts_text(manifest), markup=False, soft_wrap=True)
    base = _short(finished.place)
    listed = manifest["stages"].get("suspects", {}).get("rows")
    suspects = f"Look first    {base}/suspects/*.parquet: {listed:,} likely wrong answers\n" if listed else ""
    console.print(
        f"\nTraining set  {base}/train/*.parquet\n"
        f"{suspects}"
        f"Report        {base}/report.html\n"
        f"Every row     winnow view {base}\n"
        f"Why a row     winnow explain {base} ID\n"
        f"Select again  winnow select {base} RECIPE.yaml",
        markup=False,
        soft_wrap=True,
    )


def _short(out: str) -> str:
    try:
        return str(Path(out).relative_to(Path.cwd()))
    except ValueError:  # elsewhere, or in a store
        return out


def _rate(stage: dict[str, Any], key: str) -> str:
    return f"{stage[key]:,.0f}" if stage.get(key) else ""


def _counts_text(manifest: dict[str, Any]) -> str:
    counts, tokens = manifest["counts"], manifest["tokens"]
    duplicates, contaminated = counts["duplicates"], counts["contaminated"]
    copies = sum(duplicates.values())
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in duplicates.items() if number)
    selected_away = counts["dropped"] - copies - contaminated - counts["not_scored"]
    share = 100 * counts["kept"] / max(counts["read"], 1)
    lines = [
        "",
        f"read       {counts['read']:>10,}",
        f"bad        {counts['bad']:>10,}",
        *([f"evaluation {contaminated:>10,}  (hold items of evaluation sets)"] if contaminated else []),
        f"duplicates {copies:>10,}" + (f"  ({kinds})" if kinds else ""),
        f"not scored {counts['not_scored']:>10,}",
        f"not chosen {selected_away:>10,}",
        f"kept       {counts['kept']:>10,}  ({share:.1f} % of the rows read)",
    ]
    if tokens["kept"]:
        trained = tokens["trained"]
        lines.append(f"tokens     {tokens['kept']:>10,}  in the kept rows, {trained:,} of them trained on")
    return "\n".join(lines)
