"""Runs the embedding of a batch inside Beam's RunInference."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from connectors.examples import prompt_text, response_text
from scorers.models.embedding import Embedded, Embedder, load_embedder
from scorers.models.handler import METRICS_NAMESPACE, ScoredBatch, ScoringBatch
from scorers.models.scoring import MESSAGES_PER_BATCH, OnRows, Stats
from scorers.models.settings import EmbeddingSettings


def embedding_schema(dimensions: int) -> pa.Schema:
    """Columns of embedded rows: id; embedding, null where there is none; whether the text was cut."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("embedding", pa.list_(pa.float32(), dimensions)),
            ("truncated", pa.bool_()),
        ]
    )


def embed_examples(
    embedder: Embedder, examples: pa.RecordBatch, threads: int = 1
) -> tuple[pa.RecordBatch, Stats]:
    """Embeds the text of examples that the embedder's settings name.

    Args:
        embedder: The model.
        examples: Columns id and messages of the canonical schema.
        threads: Forward calls that run side by side on CPU.

    Returns:
        (columns of `embedding_schema`, one row for each example; stats). Stats are in rows: embedded,
        not_embedded, truncated, failed (of those not embedded), and of failed ones "message/<why>", with
        the id of one such row under "example/<why>".
    """
    conversations = examples.column("messages").to_pylist()
    scope = {"prompt": prompt_text, "response": response_text}.get(embedder.settings.scope)
    texts = [
        scope(turns) if scope else f"{prompt_text(turns)}\n{response_text(turns)}" for turns in conversations
    ]
    found = embedder.embed(texts, threads)
    values = pa.array(found.vectors.ravel(), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(values, embedder.dimensions, mask=pa.array(~found.embedded))
    columns = [examples.column("id"), vectors, pa.array(found.truncated)]
    rows = pa.RecordBatch.from_arrays(columns, schema=embedding_schema(embedder.dimensions))
    return rows, _stats(found, examples.column("id"))


def _stats(found: Embedded, ids: pa.Array) -> Stats:
    embedded = int(np.count_nonzero(found.embedded))
    stats: Stats = {
        "embedded": embedded,
        "not_embedded": len(ids) - embedded,
        "truncated": int(np.count_nonzero(found.truncated)),
        "failed": len(found.failures),
    }
    first = {why: at for at, why in sorted(found.failures.items(), reverse=True)}
    for why, count in Counter(found.failures.values()).most_common(MESSAGES_PER_BATCH):
        stats |= {f"message/{why}": count, f"example/{why}": ids[first[why]].as_py()}
    return stats


class EmbeddingHandler(ModelHandler[ScoringBatch, ScoredBatch, Embedder]):
    """Embeds batches; an element is a whole Arrow batch, as in scorers/models/handler.py.

    Args:
        settings: The model.
        threads: Forward calls that run side by side on CPU, in each worker process.
        on_rows: Told of progress inside the worker; must pickle.
    """

    def __init__(
        self, settings: EmbeddingSettings, *, threads: int = 1, on_rows: OnRows | None = None
    ) -> None:
        super().__init__()
        self._settings = settings
        self._threads = threads
        self._on_rows = on_rows

    def load_model(self) -> Embedder:
        """Loads the model, once in a process."""
        return load_embedder(self._settings)

    def run_inference(
        self, batch: ScoringBatch, model: Embedder, inference_args: dict[str, Any] | None = None
    ) -> Iterator[ScoredBatch]:
        """Embeds one batch; yields one result."""
        started = time.perf_counter()
        rows, stats = embed_examples(model, batch.examples, self._threads)
        stats["seconds"] = time.perf_counter() - started
        if self._on_rows is not None:
            self._on_rows(rows.num_rows, 0)
        yield ScoredBatch(batch.unit, rows, stats)

    def should_skip_batching(self) -> bool:
        """An element is a batch already."""
        return True

    def get_num_bytes(self, batch: ScoringBatch) -> int:
        """Size for Beam's metric; its default pickles the whole batch to find out."""
        return int(batch.examples.nbytes)

    def get_metrics_namespace(self) -> str:
        """Where Beam puts its own metrics of this handler."""
        return METRICS_NAMESPACE
