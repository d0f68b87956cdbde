"""The results of an evaluation as a Markdown table, as lines for a terminal, and as curves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS, TABLE, CURVES = "results.json", "results.md", "curves.csv"
MOST_RUNS = 3  # of which each is compared with each in what is printed; results.json has all pairs


def markdown(results: dict[str, Any]) -> str:
    """The results as a page of Markdown: a table of the sets, one of the differences, the sentences."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    held_out = results["held_out"]
    yield "# Does the selection help?"
    yield ""
    yield (
        f"Model `{results['model']}`, {results['steps']:,} steps of about {results['step_tokens']:,} trained "
        f"tokens, highest learning rate {results['learning_rate']:.1e}, {results['seeds']} seed(s), the same "
        f"for all sets. Measured on {held_out['rows']:,} held-out rows, {held_out['tokens']:,} response "
        f"tokens, of {held_out['prompts']:,} prompts: {held_out['from']}."
    )
    for note in results["notes"]:
        yield ""
        yield note
    yield ""
    yield from set_table(results)
    yield ""
    yield from difference_table(results)
    yield ""
    yield from (f"- {one['sentence']}" for one in shown(results))
    yield ""
    yield (
        "Losses are nats per response token. Intervals are 95 % of a paired bootstrap over the held-out "
        "prompts and over the seeds; they are not widened for the number of comparisons."
    )


def set_table(results: dict[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: each set, its size, and what the models trained on it came to."""
    checked = any(arm["accuracy"] is not None for arm in results["arms"])
    more = (" right answers |", "--:|") if checked else ("", "")
    yield f"| trained on | rows | trained tokens | epochs | held-out loss | by seed |{more[0]}"
    yield f"|---|--:|--:|--:|--:|---|{more[1]}"
    for arm in results["arms"]:
        seeds = ", ".join(f"{loss:.3f}" for loss in arm["loss_by_seed"])
        line = (
            f"| {_cell(arm['label'])} | {arm['rows']:,} | {arm['trained_tokens']:,} | {arm['epochs']:.1f} | "
            f"{arm['loss']:.4f} | {seeds} |"
        )
        accuracy = "" if arm["accuracy"] is None else f"{100 * arm['accuracy']:.1f} %"
        yield f"{line} {accuracy} |" if checked else line


def difference_table(results: dict[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: each comparison with its interval and verdict."""
    yield "| selection | against | loss less the other's | 95 % interval | verdict |"
    yield "|---|---|--:|---|---|"
    for one in shown(results):
        loss = one["loss"]
        yield (
            f"| {_cell(one['run'])} | {_cell(one['against'])} | {loss['difference']:+.4f} | "
            f"{loss['low']:+.4f} to {loss['high']:+.4f} | {loss['verdict']} |"
        )


def shown(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons that are printed: of many selections, only those with the other sets."""
    runs = {one["run"] for one in results["comparisons"]}
    return [one for one in results["comparisons"] if len(runs) <= MOST_RUNS or one["against"] not in runs]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def curves_csv(results: dict[str, Any]) -> str:
    """Mean loss of the seeds on a part of the held-out rows, by step: set, step, loss."""
    lines = ["set,step,loss"]
    for arm in results["arms"]:
        label = arm["label"].replace('"', '""')
        lines += [f'"{label}",{step:.0f},{loss:.5f}' for step, loss in arm["curve"]]
    return "\n".join(lines) + "\n"


def evaluated_text(results: dict[str, Any], folder: Path) -> str:
    """What came out, where it is, and what to do next."""
    width = max(len(arm["label"]) for arm in results["arms"])
    lines = [f"{'trained on':<{width}}  rows     tokens   epochs  held-out loss (nats per response token)"]
    for arm in results["arms"]:
        right = "" if arm["accuracy"] is None else f"   {100 * arm['accuracy']:.1f} % of answers right"
        lines.append(
            f"{arm['label']:<{width}}  {arm['rows']:<7,}  {arm['trained_tokens']:<9,}{arm['epochs']:>5.1f}  "
            f"{arm['loss']:.4f}{right}"
        )
    return "\n".join(
        [
            *lines,
            "",
            *(one["sentence"] for one in shown(results)),
            *results["notes"],
            "",
            f"Table    {folder / TABLE}",
            f"Numbers  {folder / RESULTS}",
            f"Curves   {folder / CURVES}",
            "More seeds narrow the intervals: the same command with --seeds 5 trains only what is missing.",
        ]
    )
