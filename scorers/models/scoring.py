"""Scores a batch of examples with one model: the front door for plain Python, and what Beam calls.

Rendering and tokenising give each row a status; the rows that are "ok" go through the model once per view
that some scorer needs; the scorers turn the token outputs into columns.

On CPU the last bits of torch's results change with the number of threads inside an operation, so every
micro-batch runs on one such thread and several micro-batches run side by side: the same bytes come out for
any number of threads. A batch is packed for itself, so its scores do not depend on what ran before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from scorers.base import STATUSES, Need, Output, View
from scorers.catalog import comparing, plan
from scorers.models.batching import pack
from scorers.models.columns import Results, next_texts, score_columns, scores_batch, scores_schema
from scorers.models.forward import RowFailure, RowOutputs, Wanted, forward_or_fail
from scorers.models.layout import context, groups, shared_tokens
from scorers.models.loading import LoadedModel
from scorers.models.rendering import check_ending
from scorers.models.tokenising import RowTokens, TokenSequence, token_id, tokenise_rows

Stats = dict[str, Any]  # numbers, but for the ids of examples
OnRows = Callable[[int, int], None]
"""Told of progress: (rows finished, tokens pushed through the model) since the last call."""

MESSAGES_PER_BATCH = 10
_CALLS_IN_LINE = 2
_ROWS_AHEAD = 512
ENOUGH_FAILURES = 8  # a model that fails on so many rows, and works on none, is broken


@dataclass(frozen=True, slots=True)
class _MicroBatch:
    """Rows of one view that run together.

    Attributes:
        view: The view.
        rows: Their indices in the batch.
        sequences: The rows.
        wanted: What the model is to give.
        tokens: Tokens that the model reads.
        padded_tokens: The same with padding.
    """

    view: View
    rows: list[int]
    sequences: list[TokenSequence]
    wanted: Wanted
    tokens: int
    padded_tokens: int


def score_examples(
    model: LoadedModel,
    examples: pa.RecordBatch,
    scorers: Sequence[str],
    *,
    store_tokens: bool = False,
    store_outputs: Collection[Output] = (),
    threads: int = 1,
    on_rows: OnRows | None = None,
) -> tuple[pa.RecordBatch, Stats]:
    """Scores examples, in order, one row of scores for each.

    Args:
        model: From `load_model`.
        examples: Columns `id`, `messages` and `tools` of the canonical schema. About 2,000 rows
            together pad well; the scores of a row do not depend on the others beyond rounding.
        scorers: Names in the catalog.
        store_tokens: Also gives `input_ids`, `response_at` (positions of the response tokens in them) and
            `token_nll` (nats, aligned with response_at), null unless the status is "ok".
        store_outputs: Also gives these outputs of the conditional view, float16 (ranks int32):
            `token_<output>`, aligned with response_at, or one array for the row under the output's own name.
        threads: Micro-batches that run side by side on CPU; the result is the same, bit by bit.
            Without meaning on CUDA.
        on_rows: Called in this thread as rows are finished.

    Returns:
        (scores as `scores_schema` says, stats). Scores are null where the status is not "ok" or where
        a scorer has no value. Stats are sums over the batch: rows, tokens (pushed through the model in all
        views), padded_tokens (the same with padding), response_tokens, micro_batches, memory_retries (calls
        that ran out of memory), flop (see `LoadedModel.flop`), seconds,
        "status/<status>" and "message/<status>: <message>" in rows; "example/<status>: <message>" is the id
        of one such row.

    Raises:
        ValueError: If a scorer is unknown or needs another model too, or a column is missing.
        Exception: What the model raised, if it fails on every one of several rows: it is broken, not they.
    """
    started = time.perf_counter()
    for scorer in comparing(scorers):
        raise ValueError(
            f"{scorer.name} compares the target with its {', '.join(scorer.roles)}: one model cannot compute "
            "it. Run a recipe that names both, under `model:` and `models:`"
        )
    needs = plan(scorers, store_tokens, store_outputs)
    views: tuple[View, ...] = ("conditional", "direct", "whole")
    wanted = {view: _wanted(model, needs, view) for view in views}
    retries = model.limit.retries
    rows: list[RowTokens] = []
    micro_batches: list[_MicroBatch] = []
    results: Results = {}
    failures: _Failures = {}
    for window in _tokenised(model, examples, with_direct=bool(wanted["direct"].outputs)):
        packed = [list(_pack_view(model, window, len(rows), view, wanted[view])) for view in views]
        own_results, own_failures = _run(model, _mix(packed), len(window), threads, on_rows)
        rows += window
        micro_batches += [batch for batches in packed for batch in batches]
        results |= own_results
        failures |= own_failures
    rows = _with_outcome(rows, results, failures)
    results = {key: outputs for key, outputs in results.items() if rows[key[1]].status == "ok"}
    columns = score_columns(rows, results, needs, scorers)
    schema = scores_schema(scorers, store_tokens, store_outputs)
    scores = scores_batch(examples.column("id"), rows, columns, results, schema)
    ids = examples.column("id").to_pylist()
    stats = _stats(ids, rows, micro_batches, time.perf_counter() - started)
    predictions = sum(len(row.targets) for batch in micro_batches for row in batch.sequences)
    stats["flop"] = model.flop(int(stats["tokens"]), predictions)
    return scores, {**stats, "memory_retries": model.limit.retries - retries}


def _tokenised(model: LoadedModel, examples: pa.RecordBatch, with_direct: bool) -> Iterator[list[RowTokens]]:
    """The rows as tokens, on CUDA some at a time: while the device works on some, the next are tokenised."""
    size = examples.num_rows if model.network.device.type == "cpu" else _ROWS_AHEAD
    parts = [examples.slice(start, size) for start in range(0, examples.num_rows, max(1, size))] or [examples]
    if len(parts) == 1:
        yield _tokenise(model, examples, with_direct)
        return
    with ThreadPoolExecutor(1) as ahead:
        yield from ahead.map(lambda part: _tokenise(model, part, with_direct), parts)


def _tokenise(model: LoadedModel, examples: pa.RecordBatch, with_direct: bool) -> list[RowTokens]:
    missing = {"id", "messages", "tools"} - set(examples.schema.names)
    if missing:
        raise ValueError(
            f"examples: no column {', '.join(sorted(missing))}; wanted the canonical id, messages, tools"
        )
    messages, tools = examples.column("messages").to_pylist(), examples.column("tools").to_pylist()
    return tokenise_rows(model.renderer, messages, tools, with_direct)


def _wanted(model: LoadedModel, needs: Sequence[Need], view: View) -> Wanted:
    """What the forward calls of one view are to give.

    Raises:
        ValueError: If the model's output layer cannot give it, a text is not one token, or prompts end
            otherwise than a need wants.
    """
    outputs = frozenset(need.output for need in needs if need.view == view)
    if "grad_norm" in outputs:
        model.network.check_gradient()
    for ending in sorted({need.after for need in needs if need.view == view and need.after}):
        check_ending(model.renderer, ending)
    texts = next_texts(needs, view)
    next_ids = tuple(token_id(model.renderer.tokenizer, text) for text in texts)
    return Wanted(outputs, next_ids, share=view == "conditional")  # a header is too short to be worth it


def _pack_view(
    model: LoadedModel, rows: list[RowTokens], first: int, view: View, wanted: Wanted
) -> Iterator[_MicroBatch]:
    """The micro-batches of one view of rows numbered from `first`; none if no scorer needs it."""
    if not wanted.outputs:
        return
    sequences = {at: getattr(row, view) for at, row in enumerate(rows, first) if row.status == "ok"}
    scored = [at for at, sequence in sequences.items() if sequence is not None]
    parts = [[at] for at in scored]
    if model.network.shares_context and wanted.share and not wanted.whole:
        scored.sort(key=lambda at: context(sequences[at]).tobytes())  # rival answers become neighbours
        ordered = iter(scored)
        parts = [[next(ordered) for _ in part] for part in groups([sequences[at] for at in scored])]
        parts.sort()
    sizes = [
        shared_tokens([sequences[at] for at in part])
        if len(part) > 1
        else wanted.input_tokens(sequences[part[0]])
        for part in parts
    ]
    for group in pack(sizes, model.batch_tokens):
        chosen = [at for part in group for at in parts[part]]
        tokens, padded = sum(sizes[part] for part in group), len(group) * sizes[group[0]]
        yield _MicroBatch(view, chosen, [sequences[at] for at in chosen], wanted, tokens, padded)


def _mix(views: Sequence[list[_MicroBatch]]) -> list[_MicroBatch]:
    """All micro-batches in an order of which every part is a fair sample of lengths and views.

    They are packed longest first; run in that order, the rows finished so far would say nothing of the time
    left. Steps of the golden ratio spread them evenly.
    """
    spread = [
        ((at * 0.6180339887498949) % 1.0, view, batch)
        for view, batches in enumerate(views)
        for at, batch in enumerate(batches)
    ]
    return [batch for *_, batch in sorted(spread, key=lambda item: item[:2])]


_Failures = dict[int, Exception]


def _run(
    model: LoadedModel, micro_batches: list[_MicroBatch], rows: int, threads: int, on_rows: OnRows | None
) -> tuple[Results, _Failures]:
    """Runs every micro-batch; results and failures by row."""
    results: Results = {}
    failures: _Failures = {}
    passes_left = Counter(row for batch in micro_batches for row in batch.rows)
    if on_rows is not None and rows > len(passes_left):
        on_rows(rows - len(passes_left), 0)  # rows that never reach the model are finished already
    for batch, outcome in _outcomes(model, micro_batches, threads):
        for row, result in zip(batch.rows, outcome, strict=True):
            if isinstance(result, RowFailure):
                failures[row] = result.error
            else:
                results[batch.view, row] = result
        passes_left.subtract(batch.rows)
        if on_rows is not None:
            on_rows(sum(passes_left[row] == 0 for row in batch.rows), batch.tokens)
    if len(failures) == len(passes_left) >= ENOUGH_FAILURES:
        raise next(iter(failures.values()))
    return results, failures


def _outcomes(
    model: LoadedModel, micro_batches: list[_MicroBatch], threads: int
) -> Iterator[tuple[_MicroBatch, list[RowOutputs | RowFailure]]]:
    """Each micro-batch with what came of it, as they end."""
    on_cpu = model.network.device.type == "cpu"
    # On CUDA one call is prepared and put in line while the one before it runs.
    calls = max(1, threads) if on_cpu else _CALLS_IN_LINE
    before = torch.get_num_threads()
    with ThreadPoolExecutor(calls, initializer=one_torch_thread if on_cpu else None) as pool:
        pending: dict[Future[list[RowOutputs | RowFailure]], _MicroBatch] = {
            pool.submit(forward_or_fail, model.network, batch.sequences, batch.wanted, model.limit): batch
            for batch in micro_batches
        }
        try:
            for future in as_completed(pending):
                yield pending.pop(future), future.result()
        finally:  # also when the caller is interrupted: what has not begun is not done
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def one_torch_thread() -> None:
    """Makes torch use one thread inside operations called from this thread.

    The setting is per thread, but a thread's first operation takes it from a process-wide default, which
    another thread may be changing; asking for it first, and setting it again, leaves no room for that.
    """
    torch.set_num_threads(1)
    torch.get_num_threads()
    torch.set_num_threads(1)


def _with_outcome(rows: list[RowTokens], results: Results, failures: _Failures) -> list[RowTokens]:
    """The rows with the status that the model's run leaves them."""
    settled = list(rows)
    for (view, at), outputs in sorted(results.items(), key=lambda item: item[0], reverse=True):
        bad = [name for name, values in sorted(outputs.items()) if not np.isfinite(values).all()]
        if bad:
            message = f"NaN or infinity in {', '.join(bad)} of the {view} view"
            settled[at] = replace(rows[at], status="nonfinite", message=message)
    for at, error in failures.items():
        settled[at] = replace(rows[at], status="error", message=error_text(error))
    return settled


def error_text(error: Exception) -> str:
    """An error in one short line, for a table that counts equal ones."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _stats(
    ids: Sequence[str], rows: list[RowTokens], micro_batches: list[_MicroBatch], seconds: float
) -> Stats:
    status = Counter(row.status for row in rows)
    messages = Counter(f"{row.status}: {row.message}" for row in rows if row.message)
    stats: Stats = {
        "rows": len(rows),
        "tokens": sum(batch.tokens for batch in micro_batches),
        "padded_tokens": sum(batch.padded_tokens for batch in micro_batches),
        "response_tokens": sum(row.response_tokens for row in rows if row.status == "ok"),
        "micro_batches": len(micro_batches),
        "seconds": seconds,
    }
    stats |= {f"status/{name}": status[name] for name in STATUSES}
    first = {f"{row.status}: {row.message}": at for at, row in reversed([*enumerate(rows)]) if row.message}
    for text, count in messages.most_common(MESSAGES_PER_BATCH):
        stats |= {f"message/{text}": count, f"example/{text}": ids[first[text]]}
    return stats
