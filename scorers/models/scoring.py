"""Scores a batch of examples with one model: the front door for plain Python, and what Beam calls.

Rendering and tokenising give each row a status; the rows that are "ok" go through the model once per view
that some scorer needs; the scorers turn the token outputs into columns.

On CPU the last bits of torch's results change with the number of threads inside an operation, so every
micro-batch runs on one such thread and several micro-batches run side by side: the same bytes come out for
any number of threads. A batch is packed for itself, so its scores do not depend on what ran before.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from scorers.base import STATUSES, Need, Output, Outputs, TokenValues, View
from scorers.catalog import columns_of, plan, resolve
from scorers.models.batching import pack
from scorers.models.forward import RowFailure, RowOutputs, TokenSequence, forward_or_fail
from scorers.models.loading import LoadedModel
from scorers.models.rendering import RowTokens, tokenise_rows

Stats = dict[str, int | float]
OnRows = Callable[[int, int], None]
"""Told of progress: (rows finished, tokens pushed through the model) since the last call."""

_LOG = logging.getLogger(__name__)
_MESSAGES_PER_BATCH = 10


@dataclass(frozen=True, slots=True)
class _MicroBatch:
    """Rows of one view that run together; `rows` are their indices in the batch."""

    view: View
    rows: list[int]
    sequences: list[TokenSequence]
    outputs: tuple[Output, ...]

    @property
    def tokens(self) -> int:
        return sum(sequence.input_tokens for sequence in self.sequences)

    @property
    def padded_tokens(self) -> int:
        return len(self.sequences) * max(sequence.input_tokens for sequence in self.sequences)


def scores_schema(scorers: Sequence[str], store_tokens: bool = False) -> pa.Schema:
    """Columns of the scores of these scorers, in order.

    Args:
        scorers: Names in the catalog.
        store_tokens: Whether token ids and the loss of each response token are stored.
    """
    fields = [
        ("id", pa.string()),
        ("status", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        *((column.name, pa.float64()) for column in columns_of(scorers)),
    ]
    if store_tokens:
        fields += [
            ("response_ids", pa.list_(pa.int32())),
            ("prompt_ids", pa.list_(pa.int32())),
            ("token_nll", pa.list_(pa.float32())),
        ]
    return pa.schema(fields)


def score_examples(
    model: LoadedModel,
    examples: pa.RecordBatch,
    scorers: Sequence[str],
    *,
    store_tokens: bool = False,
    threads: int = 1,
    on_rows: OnRows | None = None,
) -> tuple[pa.RecordBatch, Stats]:
    """Scores examples, in order, one row of scores for each.

    Args:
        model: From `load_model`.
        examples: Columns `id`, `messages` and `tools` of the canonical schema. About 2,000 rows
            together pad well; the scores of a row do not depend on the others beyond rounding.
        scorers: Names in the catalog.
        store_tokens: Also gives `response_ids`, `prompt_ids` and `token_nll` (nats), null unless
            the status is "ok".
        threads: Micro-batches that run side by side on CPU; the result is the same, bit by bit.
            Without meaning on CUDA.
        on_rows: Called in this thread as rows are finished.

    Returns:
        (scores as `scores_schema` says, stats). Scores are null where the status is not "ok" or where
        a scorer has no value. Stats are sums over the batch: rows, tokens (pushed through the model in all
        views), padded_tokens (the same with padding), response_tokens, micro_batches, seconds,
        "status/<status>" and "message/<status>: <message>" in rows.

    Raises:
        ValueError: If a scorer is unknown or a column is missing.
        RuntimeError: If the model fails on every row, which is a fault of the model or of this program.
    """
    started = time.perf_counter()
    needs = plan(scorers, store_tokens)
    rows = _tokenise(model, examples, with_direct=any(need.view == "direct" for need in needs))
    micro_batches = _mix([list(_pack_view(model, rows, needs, view)) for view in ("conditional", "direct")])
    results, failures = _run(model, micro_batches, len(rows), threads, on_rows)
    rows = _with_outcome(rows, results, failures)
    outputs = _gather(rows, results, needs)
    scores = _to_arrow(examples, rows, outputs, scorers, store_tokens)
    return scores, _stats(rows, micro_batches, time.perf_counter() - started)


def _tokenise(model: LoadedModel, examples: pa.RecordBatch, with_direct: bool) -> list[RowTokens]:
    missing = {"id", "messages", "tools"} - set(examples.schema.names)
    if missing:
        raise ValueError(
            f"examples: no column {', '.join(sorted(missing))}; wanted the canonical id, messages, tools"
        )
    messages, tools = examples.column("messages").to_pylist(), examples.column("tools").to_pylist()
    return tokenise_rows(model.renderer, messages, tools, with_header=with_direct)


def _pack_view(
    model: LoadedModel, rows: list[RowTokens], needs: Sequence[Need], view: View
) -> Iterator[_MicroBatch]:
    """The micro-batches of one view; none if no scorer needs it."""
    outputs = tuple(need.output for need in needs if need.view == view)
    if not outputs:
        return
    contexts = [row.prompt_ids if view == "conditional" else row.direct_ids for row in rows]
    scored = [at for at, row in enumerate(rows) if row.status == "ok" and contexts[at]]
    sequences = [
        TokenSequence(np.array([*contexts[at], *rows[at].response_ids], dtype=np.int64), len(contexts[at]))
        for at in scored
    ]
    for group in pack([sequence.input_tokens for sequence in sequences], model.batch_tokens):
        yield _MicroBatch(view, [scored[at] for at in group], [sequences[at] for at in group], outputs)


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


_Results = dict[tuple[View, int], RowOutputs]
_Failures = dict[int, RuntimeError]


def _run(
    model: LoadedModel, micro_batches: list[_MicroBatch], rows: int, threads: int, on_rows: OnRows | None
) -> tuple[_Results, _Failures]:
    """Runs every micro-batch; results and failures by row."""
    results: _Results = {}
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
    if len(failures) > 1 and len(failures) == len(passes_left):
        raise next(iter(failures.values()))
    return results, failures


def _outcomes(
    model: LoadedModel, micro_batches: list[_MicroBatch], threads: int
) -> Iterator[tuple[_MicroBatch, list[RowOutputs | RowFailure]]]:
    """Each micro-batch with what came of it, as they end."""
    if model.network.device.type != "cpu":
        for batch in micro_batches:
            yield batch, forward_or_fail(model.network, batch.sequences, batch.outputs)
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(max(1, threads), initializer=one_torch_thread) as pool:
        pending: dict[Future[list[RowOutputs | RowFailure]], _MicroBatch] = {
            pool.submit(forward_or_fail, model.network, batch.sequences, batch.outputs): batch
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


def _with_outcome(rows: list[RowTokens], results: _Results, failures: _Failures) -> list[RowTokens]:
    """The rows with the status that the model's run leaves them."""
    settled = list(rows)
    for (_, at), outputs in results.items():
        if not all(np.isfinite(values).all() for values in outputs.values()):
            settled[at] = replace(rows[at], status="nonfinite")
    for at, error in failures.items():
        settled[at] = replace(rows[at], status="error", message=f"{type(error).__name__}: {error}"[:200])
    return settled


def _gather(rows: list[RowTokens], results: _Results, needs: Sequence[Need]) -> Outputs:
    """The model's outputs, row after row; rows without scores, and views without context, have no tokens."""
    empty = np.zeros(0, dtype=np.float32)
    outputs: dict[Need, TokenValues] = {}
    for need in needs:
        values = [
            results[need.view, at][need.output]
            if row.status == "ok" and (need.view, at) in results
            else empty
            for at, row in enumerate(rows)
        ]
        lengths = np.array([len(row) for row in values], dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        outputs[need] = TokenValues(np.concatenate([empty, *values]), offsets)
    return outputs


def _to_arrow(
    examples: pa.RecordBatch,
    rows: list[RowTokens],
    outputs: Outputs,
    scorers: Sequence[str],
    store_tokens: bool,
) -> pa.RecordBatch:
    is_rendered = [bool(row.prompt_ids) for row in rows]
    arrays: dict[str, pa.Array] = {
        "id": examples.column("id"),
        "status": pa.array([row.status for row in rows], pa.string()),
        "prompt_tokens": _counts([len(row.prompt_ids) for row in rows], is_rendered),
        "response_tokens": _counts([len(row.response_ids) for row in rows], is_rendered),
        "truncated": pa.array([row.truncated for row in rows], pa.bool_()),
    }
    for scorer in resolve(scorers):
        columns = scorer.score({need: outputs[need] for need in scorer.needs})
        for column in scorer.columns:
            arrays[column.name] = pa.array(
                columns[column.name], pa.float64(), from_pandas=True
            )  # NaN is null
    if store_tokens:
        arrays |= _token_arrays(rows, outputs[Need("conditional", "logprob")])
    schema = scores_schema(scorers, store_tokens)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _counts(values: list[int], is_known: list[bool]) -> pa.Array:
    return pa.array(
        [value if known else None for value, known in zip(values, is_known, strict=True)], pa.int32()
    )


def _token_arrays(rows: list[RowTokens], logprobs: TokenValues) -> dict[str, pa.Array]:
    losses = np.split(0.0 - logprobs.values, logprobs.offsets[1:-1])
    is_ok = [row.status == "ok" for row in rows]
    return {
        "response_ids": pa.array(
            [r.response_ids if r.status == "ok" else None for r in rows], pa.list_(pa.int32())
        ),
        "prompt_ids": pa.array(
            [r.prompt_ids if r.status == "ok" else None for r in rows], pa.list_(pa.int32())
        ),
        "token_nll": pa.array(
            [row if ok else None for row, ok in zip(losses, is_ok, strict=True)] if rows else [],
            pa.list_(pa.float32()),
        ),
    }


def _stats(rows: list[RowTokens], micro_batches: list[_MicroBatch], seconds: float) -> Stats:
    status = Counter(row.status for row in rows)
    messages = Counter(f"{row.status}: {row.message}" for row in rows if row.message)
    for message, count in messages.most_common(_MESSAGES_PER_BATCH):
        _LOG.warning("%d rows without scores: %s", count, message)
    stats: Stats = {
        "rows": len(rows),
        "tokens": sum(batch.tokens for batch in micro_batches),
        "padded_tokens": sum(batch.padded_tokens for batch in micro_batches),
        "response_tokens": sum(len(row.response_ids) for row in rows if row.status == "ok"),
        "micro_batches": len(micro_batches),
        "seconds": seconds,
    }
    stats |= {f"status/{name}": status[name] for name in STATUSES}
    return stats | {f"message/{text}": count for text, count in messages.most_common(_MESSAGES_PER_BATCH)}
