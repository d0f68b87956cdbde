"""`winnow plan` and `winnow validate`: what a run would do and cost, and whether it can start.

Numbers are estimates from a sample of the input and say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from connectors.examples import EXAMPLE_SCHEMA
from connectors.readers import InputFile, read_examples, read_target
from connectors.storage import file_bytes
from pipelines.dedupe.semantic_settings import DEFAULT_THRESHOLD
from pipelines.ingest import input_files
from pipelines.progress import clock
from pipelines.recipe import ModelPass, Recipe
from pipelines.runner import RunnerChoice
from pipelines.selectors.base import VectorSelector
from scorers.catalog import comparing, resolve, views_of
from scorers.catalog import plan as plan_needs

if TYPE_CHECKING:
    from scorers.models.loading import LoadedModel

_SCOPES = {"both": "prompt and response", "prompt": "the prompt", "response": "the response"}
SAMPLE_ROWS = 200  # per input
SAMPLE_BYTES = 1_000_000
TIMED_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """The first rows of one input.

    Attributes:
        files: All files of the input.
        rows: The first canonical rows.
        seen: Rows read, bad ones included.
        bad: Bad rows among them.
        total: Estimated number of examples in the whole input.
    """

    files: tuple[InputFile, ...]
    rows: list[dict[str, Any]]
    seen: int
    bad: int
    total: int


def sample_input(files: tuple[InputFile, ...], limit: int | None) -> Sample:
    """Reads the start of the first file; the number of rows is estimated from bytes read, or counted."""
    rows: list[dict[str, Any]] = []
    bad = seen = position = 0
    ended = True
    for item in read_examples(files[0]):
        seen, position = seen + 1, item.position
        if item.kind == "bad":
            bad += 1
        elif len(rows) < SAMPLE_ROWS:
            rows.append(item.row)
        if seen >= SAMPLE_ROWS and position >= SAMPLE_BYTES:  # readers run ahead of their rows by a block
            ended = False
            break
    size = sum(file_bytes(file.path) for file in files)
    total = seen if ended and len(files) == 1 else max(seen, round(seen * size / max(position, 1)))
    return Sample(files, rows, seen, bad, min(total, limit or total))


def plan_text(recipe: Recipe, limit: int | None = None) -> str:
    """What a run of the recipe would do, as text.

    Raises:
        ValueError: If an input or the model cannot be found.
    """
    samples = [sample_input(files, limit) for files in input_files(recipe) if files]
    total = sum(sample.total for sample in samples)
    lines = [
        f"{recipe.name}: about {total:,} rows (estimated from the start of each input)",
        "",
        "1 ingest",
    ]
    for sample in samples:
        size = sum(file_bytes(file.path) for file in sample.files)
        bad = f", {sample.bad} of the first {sample.seen:,} unreadable" if sample.bad else ""
        count = f"{len(sample.files)} files, {size / 1e6:,.1f} MB, about {sample.total:,} rows"
        lines.append(f"    {sample.files[0].source}: {count}{bad}")
    if recipe.decontaminate:
        names = ", ".join(eval_set.set_name for eval_set in recipe.decontaminate.against)
        ngram = recipe.decontaminate.ngram
        lines += ["decontaminate", f"    {ngram} words in sequence, or the whole prompt, of {names}"]
    lines += ["2 signatures, 3 clusters", f"    {_dedupe_text(recipe)}", *_semantic_lines(recipe)]
    lines += [
        *_extra_lines(recipe),
        *_score_lines(recipe, samples),
        "5 select",
    ]
    lines += [
        f"    {selector.name}  reads {', '.join(selector.reads) or 'ids only'}" for selector in recipe.select
    ] or ["    nothing: every row is kept"]
    tokens = "with input_ids and labels" if recipe.stores_tokens else "without token ids"
    lines += [
        "6 emit",
        f"    train ({tokens}), dropped, bad_rows, scores, report.html, README.md, manifest.json",
    ]
    return "\n".join(lines)


def _dedupe_text(recipe: Recipe) -> str:
    parts = ["exact"] if recipe.dedupe.exact else []
    if recipe.dedupe.minhash:
        settings = recipe.dedupe.minhash
        parts.append(
            f"MinHash near-duplicates (Jaccard >= {settings.threshold:g} over shingles of {settings.ngram} "
            f"{settings.unit}s of {_SCOPES[settings.scope]})"
        )
    rules = ", then ".join(rule if isinstance(rule, str) else str(rule) for rule in recipe.dedupe.keep)
    older = f"; also against {', '.join(recipe.dedupe.against)}" if recipe.dedupe.against else ""
    return " and ".join(parts) + f"; keeps by {rules}{older}" if parts else "no duplicate removal"


def _semantic_lines(recipe: Recipe) -> list[str]:
    settings = recipe.dedupe.semantic
    if settings is None:
        return []
    if settings.d4 is not None:
        rule = f"D4 keeps {settings.d4.keep:g} of the rows"
    elif settings.keep is not None:
        rule = f"keeps {settings.keep:g} of the rows"
    else:
        threshold = DEFAULT_THRESHOLD if settings.threshold is None else settings.threshold
        rule = f"drops above a cosine of {threshold:g}"
    return ["embed, similarity, semantic", f"    embeddings by {settings.model.path}; {rule}"]


def _extra_lines(recipe: Recipe) -> Iterator[str]:
    """What is read of texts, and embedded, for selectors."""
    checks = recipe.checks
    if checks is not None:
        right = f", compared with the field {checks.gold} ({checks.kind})" if checks.gold else ""
        yield "check"
        yield f"    final answers{right}, calculations worked out again, words of the prompt"
    if recipe.embed is not None and recipe.reads_vectors:
        yield "vectors"
        yield f"    embeddings by {recipe.embed.path}, for selectors"


def _score_lines(recipe: Recipe, samples: Sequence[Sample]) -> Iterator[str]:
    passes = list(recipe.passes())
    if not passes:
        yield "4 score: nothing, the recipe names no scorer"
        return
    for one in passes:
        needs = plan_needs(one.scorers, one.tokens, one.outputs)
        yield f"{'4 score' if not one.role else one.stage}, with {one.settings.path}"
        for view in views_of(needs):
            users = [s.name for s in resolve(one.scorers) if view in {need.view for need in s.needs}]
            users += ["stored outputs"] if view == "conditional" and one.outputs else []
            users += ["tokens and their losses"] if view == "conditional" and one.tokens else []
            outputs = ", ".join(need.output for need in needs if need.view == view)
            yield f"    pass over the {view} view, once for {', '.join(users)} (outputs: {outputs})"
        yield from _cost_lines(one, samples, views_of(needs))
    if recipe.models:
        names = ", ".join(scorer.name for scorer in comparing(recipe.score))
        yield from ("compare", f"    {names}, from what the models stored")


def _cost_lines(one: ModelPass, samples: Sequence[Sample], views: Sequence[str]) -> Iterator[str]:
    from scorers.models.loading import load_model, resolve_device, resolve_dtype
    from scorers.models.tokenising import tokenise_rows

    settings = one.settings
    if not any(sample.rows for sample in samples):
        yield "    no row of the sample can be read; see `bad_rows` after a run"
        return
    model = load_model(settings)
    tokens = fitting = 0.0
    batches = []
    for sample in samples:
        batch = pa.RecordBatch.from_pylist(sample.rows, schema=EXAMPLE_SCHEMA)
        batches.append(batch)
        rendered = tokenise_rows(
            model.renderer,
            batch.column("messages").to_pylist(),
            batch.column("tools").to_pylist(),
            with_direct="direct" in views,
        )
        ok = [row for row in rendered if row.status == "ok"]
        both = [getattr(row, view) for row in ok for view in views]
        read = [sequence for sequence in both if sequence is not None]
        per_row = sum(len(sequence.ids) for sequence in read) / max(len(rendered), 1)
        tokens += per_row * sample.total
        fitting += len(ok) / max(len(rendered), 1) * sample.total
    weights = model.block_weights + model.head_weights
    device = resolve_device(settings)
    total = sum(sample.total for sample in samples)
    share = 100 * fitting / max(total, 1)
    yield f"    about {tokens:,.0f} tokens through the model; {share:.0f} % of the rows fit max_tokens"
    yield from _time_lines(one, model, batches, tokens)
    dtype = resolve_dtype(settings, device)
    yield (
        f"    {weights / 1e6:,.1f} M parameters, {dtype} on {device}: at most about "
        f"{2 * weights * tokens / 1e12:,.2f} TFLOP (2 x parameters x tokens)"
    )
    workers = "" if device == "cuda" else ", in every worker process"
    held = memory_bytes(model, 2 if dtype == "bfloat16" else 4)
    yield f"    about {held / 1e9:,.2f} GB of memory beside the libraries{workers}"


def _time_lines(
    one: ModelPass, model: LoadedModel, batches: Sequence[pa.RecordBatch], tokens: float
) -> Iterator[str]:
    """How long scoring would take, from really scoring a few rows of every input."""
    from scorers.models.scoring import score_examples

    threads = RunnerChoice().threads
    # Every tenth row and so on of all inputs, so that any first part is a fair sample.
    rows = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    rows = rows.take(pa.array([at for start in range(10) for at in range(start, rows.num_rows, 10)]))

    def scored(count: int) -> dict[str, int | float]:
        some = rows.slice(0, count)
        return score_examples(
            model, some, one.scorers, store_tokens=one.tokens, store_outputs=one.outputs, threads=threads
        )[1]

    for few in (1, 4):  # the first calls are slower, and compile what they need
        scored(few)
    count = 4
    while True:
        stats = scored(count)
        if stats["seconds"] >= TIMED_SECONDS or count >= rows.num_rows:
            break
        count *= 2
    if stats["tokens"]:
        rate = stats["tokens"] / stats["seconds"]
        timed = min(count, rows.num_rows)
        yield f"    about {clock(tokens / rate)} at {rate:,.0f} tokens/s, measured here on {timed} rows"


def memory_bytes(model: LoadedModel, precision: int) -> int:
    """Estimate of the memory that scoring takes: weights, one batch of activations, one chunk of logits.

    Args:
        model: The model.
        precision: Bytes of a weight.
    """
    network = model.network
    vocabulary, width = network.head.weight.shape
    weights = {id(weight): weight for part in (network.body, network.head) for weight in part.parameters()}
    held = precision * sum(weight.numel() for weight in weights.values())
    inner = getattr(network.body.config, "intermediate_size", None) or 4 * width
    activations = model.batch_tokens * (8 * width + 3 * inner) * precision
    logits = vocabulary * network.chunk_tokens * (precision + 4)
    return int(held + activations + logits)


def check_inputs_and_model(recipe: Recipe, *, here: bool = True) -> Iterator[str]:
    """Says of each input what was found, and checks that the model's files are usable.

    Args:
        recipe: What a run would do.
        here: Whether models would run on this machine, which then needs the device asked for.

    Raises:
        ValueError: For what would stop a run.
    """
    for files in input_files(recipe):
        size = sum(file_bytes(file.path) for file in files)
        yield f"input {files[0].source}: {len(files)} files, {size / 1e6:,.1f} MB"
    for one in recipe.passes():
        from scorers.models.fingerprint import fingerprint
        from scorers.models.loading import check_device

        if here:
            check_device(one.settings)
        known = fingerprint(one.settings)
        layout = f"{known['dtype']} on {known['device']}, template: {known['template']}"
        yield f"{one.role or 'model'} {known['name']}: {layout}"
    if recipe.embed is not None:
        from scorers.models.embedding import embedding_fingerprint

        known = embedding_fingerprint(recipe.embed)
        yield f"embed {known['name']}"
    for selector in recipe.select:
        if isinstance(selector, VectorSelector) and selector.target_file is not None:
            examples = read_target(selector.target_file).num_rows
            yield f"target of {selector.name}: {selector.target_file}, {examples:,} rows"
    yield f"selectors: {json.dumps([selector.name for selector in recipe.select])}"
