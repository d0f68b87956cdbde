"""The command line. Heavy imports stand inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.run import Finished

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Choose what a language model is fine-tuned on, with the model itself, and say why for every row.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file.")]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of a finished run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first N examples of each input.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")]
WITH_BEAM_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": False}


def main() -> None:
    """Entry point of the `winnow` command."""
    app()


@contextmanager
def _failures(log: Path | None = None) -> Iterator[None]:
    """Turns what users can mend into a message and an exit code; keeps the traceback of the rest in a log."""
    import traceback

    from pipelines.runner import STOP, stop_on_signals

    stop_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        STOP.caught = True
        _say("\nStopped. What was finished is kept; run the same command again to go on from there.")
        raise typer.Exit(130) from None
    except (ValueError, OSError) as error:
        _say(f"winnow: {error}")
        raise typer.Exit(2) from error
    except RuntimeError as error:
        where = ""
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc(), "utf-8")
            where = f"\nThe whole error: {log}. What was finished is kept; run again to go on from there."
        lines = [line for line in str(error).splitlines() if line.strip()]
        _say(f"winnow: {_last_cause(lines)}{where}")
        raise typer.Exit(1) from error


def _last_cause(lines: list[str]) -> str:
    """The line of an error text that says what went wrong; Beam's workers send whole tracebacks as text."""
    if not any(line.startswith("Traceback") for line in lines):
        return "\n".join(lines)
    causes = [
        line for line in lines if line[:1].isalpha() and ": " in line and not line.startswith("Traceback")
    ]
    return (causes or lines)[-1]


def _console() -> Console:
    """A console on a copy of standard error, which still shows while workers' chatter goes to a file."""
    import os

    from rich.console import Console

    return Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"), highlight=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command's output


def _show(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201 - the command's output


def _quiet_libraries(verbose: bool) -> None:
    """Keeps Beam's and transformers' chatter off the terminal; call it before importing Beam."""
    import logging
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if verbose else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        # Beam logs the traceback of every error that it then raises.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


@app.command(context_settings=WITH_BEAM_OPTIONS)
def run(
    context: typer.Context,
    recipe: RecipePath,
    output: Annotated[
        Path | None, typer.Option(help="Output folder; default: the recipe's `output`.")
    ] = None,
    set_: Overrides = None,
    limit: Limit = None,
    workers: Workers = 1,
    verbose: Annotated[bool, typer.Option(help="Show what Beam and transformers log.")] = False,
) -> None:
    """Run a recipe: read, dedupe, score, select, emit. Run it again to resume. Beam options go after `--`."""
    _quiet_libraries(verbose)
    with _failures():
        from pipelines.recipe import load_recipe

        loaded = load_recipe(recipe, set_ or ())
        out = output or (Path(loaded.output) if loaded.output else None)
        if out is None:
            raise ValueError(f"{recipe}: no `output:` in the recipe; give --output OUT")
    with _failures(out / "run.log"):
        from pipelines.progress import Progress
        from pipelines.run import run as run_recipe
        from pipelines.runner import choose_runner

        runner = choose_runner(workers, context.args)
        finished = run_recipe(loaded, out, runner, Progress(_console()), limit)
        (out / "run.log").unlink(missing_ok=True)
        _close(finished)


@app.command(context_settings=WITH_BEAM_OPTIONS)
def select(context: typer.Context, out: OutFolder, recipe: RecipePath, set_: Overrides = None) -> None:
    """Decide again from the stored scores of OUT, with the `select`, `seed` and `emit` of RECIPE."""
    _quiet_libraries(verbose=False)
    with _failures(out / "run.log"):
        from pipelines.progress import Progress
        from pipelines.recipe import load_recipe
        from pipelines.run import reselect
        from pipelines.runner import choose_runner

        finished = reselect(
            out, load_recipe(recipe, set_ or ()), choose_runner(1, context.args), Progress(_console())
        )
        _close(finished)


@app.command()
def plan(recipe: RecipePath, set_: Overrides = None, limit: Limit = None) -> None:
    """Say what a run would do: stages, passes of the model and who shares them, an estimate of the cost."""
    _quiet_libraries(verbose=False)
    with _failures():
        from pipelines.plan import plan_text
        from pipelines.recipe import load_recipe

        _show(plan_text(load_recipe(recipe, set_ or ()), limit))


@app.command()
def explain(out: OutFolder, id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a row.")]) -> None:
    """Every fact about one row: where it came from, its scores and ranks, the decision and why."""
    with _failures():
        from pipelines.explain import explain_text

        _show(explain_text(out, id_))


@app.command()
def report(out: OutFolder) -> None:
    """Write OUT/report.html and OUT/README.md again."""
    with _failures():
        from connectors.manifest import read_manifest
        from pipelines.dataset_card import write_card
        from pipelines.report import write_report

        manifest = read_manifest(out)
        write_card(out, manifest)
        _show(f"Report: {write_report(out, manifest)}")


@app.command()
def methods() -> None:
    """List every scorer and selector."""
    with _failures():
        from pipelines.methods import methods_text

        _show(methods_text())


@app.command()
def validate(recipe: RecipePath, set_: Overrides = None) -> None:
    """Check a recipe, its inputs and its model's files without running anything."""
    _quiet_libraries(verbose=False)
    with _failures():
        from pipelines.plan import check_inputs_and_model
        from pipelines.recipe import load_recipe

        loaded = load_recipe(recipe, set_ or ())
        for line in check_inputs_and_model(loaded):
            _show(line)
        _show(f"{recipe}: fine. Next: winnow plan {recipe}")


@app.command()
def rank(
    examples: Annotated[
        str, typer.Argument(metavar="EXAMPLES", help="File, folder or glob of K examples of the task.")
    ],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Folders or hub ids of the candidate models.")
    ],
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Longest example in tokens; default: each model's context.")
    ] = None,
    chat_template: Annotated[
        str, typer.Option(help="auto, plain, or the path of a Jinja file, for all models.")
    ] = "auto",
) -> None:
    """Rank candidate models by how likely they find the answers to K examples of a task."""
    _quiet_libraries(verbose=False)
    with _failures():
        from pipelines.rank_models import rank_text

        _show(rank_text(examples, models, max_tokens=max_tokens, chat_template=chat_template))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")] = Path("recipe.yaml"),
    recipe: Annotated[
        str, typer.Option(help="A published pipeline; `winnow methods` lists them.")
    ] = "starter",
) -> None:
    """Write a commented recipe to start from."""
    with _failures():
        from pipelines.published import write_recipe

        written = write_recipe(recipe, path)
        also = f" and {written[1]}" if written[1:] else ""
        _show(f"Wrote {path}{also}. Edit `inputs` and `model`, then: winnow validate {path}")


def _close(finished: Finished) -> None:
    from rich.console import Console
    from rich.table import Table

    manifest, out = finished.manifest, finished.out
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
    for file in manifest["unreadable_files"]:
        _say(f"WARNING: not read to its end: {file['path']}: {file['reason']} ({file['detail']})")
    base = _short(out)
    listed = manifest["stages"].get("suspects", {}).get("rows")
    suspects = f"Look first    {base}/suspects/*.parquet: {listed:,} likely wrong answers\n" if listed else ""
    console.print(
        f"\nTraining set  {base}/train/*.parquet\n"
        f"{suspects}"
        f"Report        {base}/report.html\n"
        f"Why a row     winnow explain {base} ID\n"
        f"Select again  winnow select {base} RECIPE.yaml",
        markup=False,
        soft_wrap=True,
    )


def _short(out: Path) -> str:
    try:
        return str(out.relative_to(Path.cwd()))
    except ValueError:
        return str(out)


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


if __name__ == "__main__":
    main()
