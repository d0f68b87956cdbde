"""Runs the embedding of a batch inside Beam's RunInference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from connectors.examples import prompt_text, response_text
from scorers.models.embedding import Embedder, load_embedder
from scorers.models.handler import METRICS_NAMESPACE, ScoredBatch, ScoringBatch
from scorers.models.scoring import OnRows
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


def embed_examples(embedder: Embedder, examples: pa.RecordBatch, threads: int = 1) -> pa.RecordBatch:
    """Embeds the text of examples that the embedder's settings name.

    Args:
        embedder: The model.
        examples: Columns id and messages of the canonical schema.
        threads: Forward calls that run side by side on CPU.

    Returns:
        Columns of `embedding_schema`, one row for each example.
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
    return pa.RecordBatch.from_arrays(columns, schema=embedding_schema(embedder.dimensions))


class EmbeddingHandler(ModelHandler[ScoringBatch, ScoredBatch, Embedder]):
    """Embeds batches; an element is a whole Arrow batch, as in scorers/models/handler.py.

    Beam metrics, in namespace "scorers": rows_embedded, rows_not_embedded, rows_truncated.

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
        rows = embed_examples(model, batch.examples, self._threads)
        missing = rows.column("embedding").null_count
        stats = {
            "embedded": rows.num_rows - missing,
            "not_embedded": missing,
            "truncated": int(np.count_nonzero(rows.column("truncated"))),
        }
        for name, value in stats.items():
            Metrics.counter(METRICS_NAMESPACE, f"rows_{name}").inc(value)
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
