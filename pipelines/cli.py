"""The command line. Heavy imports stand inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines import training_options as options
from pipelines.exit_codes import codes_text
from pipelines.terminal import RUN_LOG, console, failures, quiet_libraries, reach_stores, say, show

if TYPE_CHECKING:
    from pipelines.run import Finished

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Choose what a language model is fine-tuned on, with the model itself, and say why for every row.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file.")]
OutFolder = Annotated[
    str, typer.Argument(metavar="OUT", help="Output folder of a finished run; s3:// and gs:// too.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first N examples of each input.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")]
LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option(help="text: lines for people; json: one object a line on standard error, no summary."),
]
WITH_BEAM_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": False}
EXIT_CODES = f"\b\nExit codes:\n{codes_text()}"  # \b keeps the lines as they are


def main() -> None:
    """Entry point of the `winnow` command."""
    app()


@app.command(context_settings=WITH_BEAM_OPTIONS, epilog=EXIT_CODES)
def run(
    context: typer.Context,
    recipe: RecipePath,
    output: Annotated[
        str | None,
        typer.Option(help="Output folder, or a place like s3://bucket/run; default: the recipe's `output`."),
    ] = None,
    set_: Overrides = None,
    limit: Limit = None,
    workers: Workers = 1,
    verbose: Annotated[bool, typer.Option(help="Show what Beam and transformers log.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Run a recipe: read, dedupe, score, select, emit. Run it again to resume. Beam options go after `--`."""
    quiet_libraries(verbose, log_format)
    with failures():
        from pipelines.recipe_file import load_recipe

        loaded = load_recipe(recipe, set_ or ())
        out = output or loaded.output
        if out is None:
            raise ValueError(f"{recipe}: no `output:` in the recipe; give --output OUT")
    with failures(out):
        from connectors.storage import join, remove
        from pipelines.progress import Progress
        from pipelines.run import run as run_recipe
        from pipelines.runner import choose_runner

        runner = choose_runner(workers, context.args)
        finished = run_recipe(loaded, out, runner, Progress(console()), limit)
        remove([join(out, RUN_LOG)])
        _close(finished)


@app.command(context_settings=WITH_BEAM_OPTIONS)
def select(
    context: typer.Context,
    out: OutFolder,
    recipe: RecipePath,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Decide again from the stored scores of OUT, with the `select`, `seed` and `emit` of RECIPE."""
    quiet_libraries(verbose=False, log_format=log_format)
    with failures(out):
        from pipelines.progress import Progress
        from pipelines.recipe_file import load_recipe
        from pipelines.run import reselect
        from pipelines.runner import choose_runner

        finished = reselect(
            out, load_recipe(recipe, set_ or ()), choose_runner(1, context.args), Progress(console())
        )
        _close(finished)


@app.command(context_settings=WITH_BEAM_OPTIONS)
def plan(context: typer.Context, recipe: RecipePath, set_: Overrides = None, limit: Limit = None) -> None:
    """Say what a run would do: stages, passes of the model and who shares them, an estimate of the cost."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.plan import plan_text
        from pipelines.recipe_file import load_recipe

        reach_stores(context.args)
        show(plan_text(load_recipe(recipe, set_ or ()), limit))


@app.command(context_settings=WITH_BEAM_OPTIONS)
def explain(
    context: typer.Context,
    out: OutFolder,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a row.")],
) -> None:
    """Every fact about one row: where it came from, its scores and ranks, the decision and why."""
    with failures():
        from pipelines.explain import explain_text

        reach_stores(context.args)
        show(explain_text(out, id_))


@app.command(context_settings=WITH_BEAM_OPTIONS)
def report(
    context: typer.Context,
    out: OutFolder,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Compare with another finished run: OUT/report-against.html."),
    ] = None,
) -> None:
    """Write OUT/report.html and OUT/README.md again, or compare OUT with another run."""
    with failures():
        from connectors.manifest import read_manifest
        from pipelines.dataset_card import write_card
        from pipelines.report import write_report
        from pipelines.report_against import write_against

        reach_stores(context.args)
        if against is not None:
            show(f"Comparison: {write_against(out, against)}")
            return
        manifest = read_manifest(out)
        write_card(out, manifest)
        show(f"Report: {write_report(out, manifest)}")


@app.command(context_settings=WITH_BEAM_OPTIONS)
def view(
    context: typer.Context,
    out: OutFolder,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Where it listens; default 8765, or a free one.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
) -> None:
    """Show the rows of OUT in a local page: search, filter, and read why each was kept or dropped."""
    with failures():
        from pipelines.view.server import serve

        reach_stores(context.args)
        serve(out, port, show, in_browser=open_)


@app.command()
def methods(
    format_: Annotated[
        Literal["text", "markdown"],
        typer.Option(
            "--format", help="text: a list for the terminal; markdown: the page, formulas included."
        ),
    ] = "text",
) -> None:
    """List every scorer and selector."""
    with failures():
        if format_ == "text":
            from pipelines.methods import methods_text as text
        else:
            from pipelines.methods_reference import methods_page as text
        show(text().rstrip("\n"))


@app.command(context_settings=WITH_BEAM_OPTIONS)
def validate(context: typer.Context, recipe: RecipePath, set_: Overrides = None) -> None:
    """Check a recipe, its inputs and its model's files without running anything."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.plan import check_inputs_and_model
        from pipelines.recipe_file import load_recipe
        from pipelines.runner import choose_runner

        reach_stores(context.args)
        loaded = load_recipe(recipe, set_ or ())
        for line in check_inputs_and_model(loaded, here=choose_runner(1, context.args).is_local):
            show(line)
        show(f"{recipe}: fine. Next: winnow plan {recipe}")


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
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.rank_models import rank_text

        show(rank_text(examples, models, max_tokens=max_tokens, chat_template=chat_template))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")] = Path("recipe.yaml"),
    recipe: Annotated[
        str, typer.Option(help="A published pipeline; `winnow methods` lists them.")
    ] = "starter",
) -> None:
    """Write a commented recipe to start from."""
    with failures():
        from pipelines.published import write_recipe

        written = write_recipe(recipe, path)
        wrote = " and ".join(map(str, written))
        show(f"Wrote {wrote}. Edit `inputs` and `model`, then: winnow validate {path}")


@app.command()
def schema(
    format_: Annotated[
        Literal["json", "markdown"],
        typer.Option("--format", help="json: JSON schema, for editors; markdown: the reference of recipes."),
    ] = "json",
) -> None:
    """Print every key of a recipe with its type, bounds, default and meaning."""
    with failures():
        if format_ == "json":
            from pipelines.recipe_schema import schema_json as text
        else:
            from pipelines.recipe_reference import reference as text
        show(text().rstrip("\n"))


@app.command()
def export(
    out: OutFolder,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="For which trainer; `--format list` says.")
    ],
    to: Annotated[Path | None, typer.Option(help="Folder to write; default OUT/exports/FORMAT.")] = None,
    lossy: Annotated[
        bool, typer.Option(help="Write it although weights, masks or rows are lost; it says which.")
    ] = False,
) -> None:
    """Write the training set of OUT for a trainer: TRL, LLaMA-Factory, axolotl, OpenAI, DPO, datasets."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.export.export import export as export_run
        from pipelines.export.export import export_text
        from pipelines.export.formats import formats_table

        if format_ == "list":
            show(formats_table())
        else:
            show(export_text(export_run(out, format_, to, lossy=lossy)))


@app.command()
def push(
    out: OutFolder,
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="NAME or OWNER/NAME of a data set.")],
    private: Annotated[bool, typer.Option(help="Make it a private repository.")] = False,
) -> None:
    """Upload the training set of OUT with its dataset card to the Hugging Face hub."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.export.push import push as push_run

        show(f"Pushed to {push_run(out, repo_id, private=private)}")


@app.command(name="fine-tune")
def fine_tune(
    out: options.TrainingSet,
    to: options.ModelFolder,
    model: options.ModelName = None,
    steps: options.Steps = None,
    epochs: options.Epochs = 3.0,
    step_tokens: options.StepTokens = 2048,
    learning_rate: options.LearningRate = None,
    seed: options.Seed = 0,
) -> None:
    """Fine-tune a model on the training set of OUT with TRL, token masks and weights honoured."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.progress import Progress
        from pipelines.training.fine_tune import TrainingSettings, fine_tuned_text
        from pipelines.training.fine_tune import fine_tune as train

        settings = TrainingSettings(steps, epochs, step_tokens, learning_rate, seed)
        show(fine_tuned_text(train(out, model, to, settings, Progress(console()))))


@app.command()
def evaluate(
    outs: options.Runs,
    held_out: options.HeldOutRows = None,
    model: options.ModelName = None,
    seeds: options.Seeds = 3,
    steps: options.Steps = None,
    epochs: options.Epochs = 2.0,
    step_tokens: options.StepTokens = 1024,
    learning_rate: options.LearningRate = None,
    answers: options.Answers = None,
    workers: Workers = 1,
    to: options.ResultsFolder = None,
) -> None:
    """Does the selection help? Train on it, on random rows, the longest, everything; compare. Resumes."""
    quiet_libraries(verbose=False)
    with failures():
        from pipelines.evaluate.evaluate import evaluate as measure
        from pipelines.evaluate.settings import EvaluateSettings
        from pipelines.evaluate.text import evaluated_text
        from pipelines.progress import Progress

        settings = EvaluateSettings(
            model,
            held_out,
            0.1,
            500,
            seeds,
            steps,
            epochs,
            step_tokens,
            learning_rate,
            answers,
            workers=workers,
        )
        done = measure(outs, to, settings, Progress(console()))
        show(evaluated_text(done.results, done.folder))


def _close(finished: Finished) -> None:
    from pipelines.run_log import CONTEXT

    manifest = finished.manifest
    for file in manifest["unreadable_files"]:
        say(f"WARNING: not read to its end: {file['path']}: {file['reason']} ({file['detail']})", "WARNING")
    if CONTEXT.as_json:
        counts = {key: manifest["counts"][key] for key in ("read", "bad", "not_scored", "dropped", "kept")}
        counts = {f"rows_{key}": count for key, count in counts.items()}
        say(f"Finished: {finished.place}", numbers={**counts, "seconds": manifest["seconds"]})
    else:
        from pipelines.summary import print_summary

        print_summary(finished)


if __name__ == "__main__":
    main()
