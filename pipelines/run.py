"""One run from recipe to published set: the stages in order, the books, the manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.manifest import read_manifest, write_manifest
from connectors.shards import Unit, plan_units
from connectors.storage import is_remote, join, resolved, write_text
from connectors.storage_clients import set_options
from pipelines.books import check_books, make_manifest
from pipelines.decide import Known, select
from pipelines.emit import emit
from pipelines.failed_rows import check_failed_rows
from pipelines.ingest import TooManyBadRows, check_bad_rows, ingest
from pipelines.lock import sole_user
from pipelines.progress import Progress
from pipelines.publish import publish, publish_bad_rows
from pipelines.recipe import Recipe, RecipeError, parse_recipe
from pipelines.run_log import CONTEXT, identified_run
from pipelines.runner import RunnerChoice
from pipelines.stages import WORK, StageResult, Workspace, load_stage, prune_stages
from pipelines.suspects import list_suspects
from scorers.base import ROLES

DROPPING = ("decontaminate", "clusters", "semantic")
STORED = (
    "ingest", "decontaminate", "signatures", "clusters", "embed", "similarity", "semantic", "vectors",
    "check", "score", *(f"score-{role}" for role in ROLES), "compare",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        place: Its output folder, a path or an address in an object store.
        manifest: Its manifest.
    """

    place: str
    manifest: dict[str, Any]

    @property
    def out(self) -> Path:
        """The output folder of a run on this machine.

        Raises:
            ValueError: If it is in an object store.
        """
        if is_remote(self.place):
            raise ValueError(f"{self.place} is no folder of this machine; read `place`")
        return Path(self.place)


def run(
    recipe: Recipe, out: str | Path, runner: RunnerChoice, progress: Progress, limit: int | None = None
) -> Finished:
    """Runs a recipe, or what is left to do of it.

    Args:
        recipe: What to do.
        out: Output folder, on this machine or in an object store; may hold an earlier or unfinished run.
        runner: How to execute the stages.
        progress: Where to say how far it is.
        limit: Read only the first this many examples of each input.

    Raises:
        RecipeError: If another run is writing to `out`.
        ValueError: If an input or the model cannot be read, or too many rows are bad.
        UnbalancedBooks: If rows were lost or doubled.
    """
    space = _workspace(out, runner, progress)
    with identified_run(), sole_user(space), _kept_log(space):
        began = time.monotonic()
        models = _model_identities(recipe, here=runner.is_local)
        ingested, inputs = ingest(space, recipe, limit)
        _report(progress, ingested)
        _check_readable(space, ingested, recipe)
        units = plan_units(ingested.paths)
        stages = [ingested, *drop_rows(space, recipe, units, ingested)]
        stages += check_texts(space, recipe, units, stages)
        stages += embed_texts(space, recipe, units, stages)
        stages += _score(space, recipe, units, stages, models)
        described = {"inputs": inputs, "models": models, "limit": limit}
        return _decide_and_publish(space, recipe, stages, units, described, began)


def _workspace(out: str | Path, runner: RunnerChoice, progress: Progress) -> Workspace:
    set_options(runner.flags)  # before the first look at a store
    return Workspace(resolved(out), runner, progress)


@contextmanager
def _kept_log(space: Workspace) -> Iterator[None]:
    """Sends the log of the worker processes to the store, also after a failure; on a disk it is in place."""
    try:
        yield
    finally:
        log = space.local / "workers.log"
        if is_remote(space.out) and log.exists() and log.stat().st_size:
            with suppress(OSError):  # the failure that is being reported says more
                write_text(join(space.work, log.name), log.read_text("utf-8", "replace"))


def drop_rows(
    space: Workspace, recipe: Recipe, units: Sequence[Unit], ingested: StageResult
) -> list[StageResult]:
    """The stages that drop rows before the model sees any: evaluation items, then duplicates."""
    from pipelines.dedupe.stages import dedupe  # compiles its inner loops; reading a recipe does not

    stages: list[StageResult] = []

    def add(*done: StageResult) -> None:
        for stage in done:
            stages.append(stage)
            _report(space.progress, stage)

    if recipe.decontaminate is not None:
        from pipelines.decontaminate.stage import decontaminate

        add(decontaminate(space, recipe.decontaminate, units, ingested))
    add(*dedupe(space, recipe.dedupe, units, ingested, dropping_of(stages)))
    if recipe.dedupe.semantic is not None:
        from pipelines.dedupe.semantic import semantic_duplicates  # loads torch

        add(
            *semantic_duplicates(
                space,
                recipe.dedupe.semantic,
                recipe.seed,
                units,
                [ingested],
                dropping_of(stages),
                recipe.max_failed_fraction,
            )  # fmt: skip
        )
    return stages


def dropping_of(stages: Sequence[StageResult]) -> list[StageResult]:
    """Those of the stages whose files name dropped rows."""
    return [stage for stage in stages if stage.name in DROPPING]


def _model_identities(recipe: Recipe, *, here: bool) -> list[dict[str, Any]]:
    """What identifies each model of the recipe, the target first; a model that is not there fails at once.

    So does one that is to run on a device which this machine has not, if it is to run `here`.
    """
    passes = list(recipe.passes())
    if not passes:
        return []
    from scorers.models.fingerprint import fingerprint
    from scorers.models.loading import check_device

    if here:
        for one in passes:
            check_device(one.settings)
    return [{**({"role": one.role} if one.role else {}), **fingerprint(one.settings)} for one in passes]


def check_texts(
    space: Workspace, recipe: Recipe, units: Sequence[Unit], stages: Sequence[StageResult]
) -> list[StageResult]:
    """The stage that reads the texts of responses."""
    settings = recipe.checks
    if settings is None:
        return []
    from pipelines.check import check

    stage = check(space, settings, units, stages[0], dropping_of(stages))
    _report(space.progress, stage)
    return [stage]


def embed_texts(
    space: Workspace, recipe: Recipe, units: Sequence[Unit], stages: Sequence[StageResult]
) -> list[StageResult]:
    """The stage of vectors for selectors; those of semantic duplicates serve, if the model is the same."""
    if recipe.embed is None or not recipe.reads_vectors:
        return []
    if recipe.dedupe.semantic is not None and recipe.dedupe.semantic.model == recipe.embed:
        return []
    from pipelines.embed import embed_rows

    stage = embed_rows(space, recipe.embed, units, stages[:1], dropping_of(stages), name="vectors")
    _report(space.progress, stage)
    check_failed_rows(stage, recipe.max_failed_fraction)
    return [stage]


def _score(
    space: Workspace,
    recipe: Recipe,
    units: Sequence[Unit],
    stages: Sequence[StageResult],
    models: Sequence[dict[str, Any]],
) -> list[StageResult]:
    """The stages of the models, the target's first, and of the scores that compare them."""
    passes = list(recipe.passes())
    if not passes:
        return []
    from pipelines.score import score, utilisation  # loads torch; a run without a model does not

    scored: list[StageResult] = []
    for one, model in zip(passes, models, strict=True):
        stage = score(space, one, model, units, stages[0], dropping_of(stages))
        scored.append(stage)
        _report(space.progress, stage)
        check_failed_rows(stage, recipe.max_failed_fraction)
        if stage.rate and not stage.reused and space.runner.is_local and stage.stats["tokens"]:
            cores = space.runner.threads * space.runner.workers
            space.progress.say(f"{'':<10}  {utilisation(stage, model, cores)}")
    if recipe.models:
        from pipelines.compare import compare_models

        others = {one.role: stage for one, stage in zip(passes, scored, strict=True) if one.role}
        scored.append(compare_models(space, recipe.score, scored[0], others))
        _report(space.progress, scored[-1])
    return scored


def _check_readable(space: Workspace, ingested: StageResult, recipe: Recipe) -> None:
    try:
        check_bad_rows(ingested, recipe.max_bad_fraction, join(str(space.out), "bad_rows"))
    except TooManyBadRows:
        publish_bad_rows(space, ingested)
        raise
    if not ingested.stats["examples"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in ingested.stats["bad_reasons"].items())
        where = publish_bad_rows(space, ingested)
        raise ValueError(f"the inputs hold no example at all ({reasons}); see {where}")


def _decide_and_publish(
    space: Workspace,
    recipe: Recipe,
    stages: Sequence[StageResult],
    units: Sequence[Unit],
    described: dict[str, Any],
    began: float,
) -> Finished:
    by_name = {stage.name: stage for stage in stages}
    dropping, known = dropping_of(stages), known_of(by_name)
    selected = select(space, recipe, units, dropping, known)
    _report(space.progress, selected)
    emitted = emit(space, recipe, units, dropping, known.scored, selected)
    _report(space.progress, emitted)
    listed = list_suspects(space, recipe, units, known.scored, selected)
    if listed is not None:
        _report(space.progress, listed)
    stages = [*stages, selected, emitted, *([listed] if listed else [])]
    described = {**described, "run_id": CONTEXT.run_id}
    manifest = make_manifest(recipe, stages, described, time.monotonic() - began)
    check_books(manifest["counts"])
    manifest["files"] = publish(space, by_name["ingest"], emitted, listed)
    _describe(str(space.out), manifest)
    prune_stages(space, stages)
    return Finished(str(space.out), manifest)


def known_of(by_name: Mapping[str, StageResult]) -> Known:
    """What the finished stages know of the candidates."""
    roles: dict[str, str] = {"": "score"} | {role: f"score-{role}" for role in ROLES}
    return Known(
        scored=tuple(by_name[name] for name in ("score", "compare", "check") if name in by_name),
        tokens={role: by_name[name] for role, name in roles.items() if name in by_name},
        embedded=by_name.get("vectors") or by_name.get("embed"),
    )


def _describe(out: str, manifest: dict[str, Any]) -> None:
    from pipelines.dataset_card import write_card
    from pipelines.report import write_report

    write_card(out, manifest)
    write_report(out, manifest)
    write_manifest(out, manifest)


def _report(progress: Progress, stage: StageResult) -> None:
    rows = stage.stats.get("rows", 0)
    if stage.reused:
        text = f"{stage.name:<10}  done before, {rows:,} rows"
    else:
        rate = f", {stage.rate:,.0f} rows/s" if stage.rate else ""
        part = ", a part of them done before" if stage.resumed else ""
        text = f"{stage.name:<10}  {rows:,} rows in {stage.seconds:.1f} s{rate}{part}"
    progress.say(text, stage.name, {"rows": rows, "seconds": stage.seconds})


def reselect(out: str | Path, recipe: Recipe, runner: RunnerChoice, progress: Progress) -> Finished:
    """Decides again from the stored scores of a finished run, with another `select`, `seed` and `emit`.

    Nothing is read, deduplicated or scored again; the inputs and the model need not be there any more. Texts
    are checked and embedded if the new selectors need that and the run did not do it.

    Raises:
        ValueError: If `out` holds no finished run or its stored stages are gone.
        RecipeError: If the selectors read scores that the run did not compute.
    """
    space = _workspace(out, runner, progress)
    manifest = read_manifest(space.out)
    plain = recipe.resolved()
    chosen = {key: plain[key] for key in ("name", "select", "seed", "emit")}
    chosen |= {key: plain[key] for key in ("check", "embed") if plain[key] is not None}
    combined = with_selection(out, manifest, chosen)
    with identified_run(), sole_user(space), _kept_log(space):
        began = time.monotonic()
        stages = stored_stages(space, manifest)
        for stage in stages:
            _report(progress, stage)
        units = plan_units(stages[0].paths)
        stages += missing_stages(space, manifest, combined, units, stages)
        described = {key: manifest[key] for key in ("inputs", "models", "limit")}
        return _decide_and_publish(space, combined, stages, units, described, began)


def with_selection(out: str | Path, manifest: dict[str, Any], chosen: Mapping[str, Any]) -> Recipe:
    """The recipe of a finished run with other sections `select`, `seed`, `emit`, `check` and `embed`.

    Raises:
        RecipeError: If the selectors read scores that the run did not compute, or tokens it did not keep.
    """
    combined = parse_recipe({**manifest["recipe"], **chosen}, f"{out} with the new selection")
    if combined.stores_tokens and not parse_recipe(manifest["recipe"], "manifest").stores_tokens:
        raise RecipeError(
            "the new selection needs per-token losses, which the run did not store; "
            "run it once with `--set emit.tokens=always`"
        )
    return combined


def missing_stages(
    space: Workspace,
    manifest: dict[str, Any],
    combined: Recipe,
    units: Sequence[Unit],
    stages: Sequence[StageResult],
) -> list[StageResult]:
    """Texts checked and embedded, where a finished run did not do it as the new selection needs it."""
    plain, found = combined.resolved(), list(stages)
    for key, name, make in (("check", "check", check_texts), ("embed", "vectors", embed_texts)):
        stored = name in manifest["stages"] and manifest["recipe"].get(key) == plain.get(key)
        found += [] if stored else make(space, combined, units, found)  # cheap beside scoring
    return found[len(stages) :]


def stored_stages(space: Workspace, manifest: dict[str, Any]) -> list[StageResult]:
    """The finished stages of a run whose work is kept.

    Raises:
        ValueError: If files of one are gone.
    """
    stages = []
    for name in STORED:
        record = manifest["stages"].get(name)
        if record is None:
            continue
        stage = load_stage(join(space.work, f"{name}-{record['key']}"))
        if stage is None:
            raise ValueError(
                f"{space.out}: the stored files of stage {name} are gone ({WORK}/{name}-{record['key']}); "
                "run the whole recipe again with `winnow run`"
            )
        stages.append(stage)
    return stages
