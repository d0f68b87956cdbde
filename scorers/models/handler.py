"""Runs the scoring of a batch inside Beam's RunInference.

An element is a whole Arrow batch, not a row: the scorer sorts and packs its rows itself, which pads far less
than Beam's own batching does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from scorers.base import Output
from scorers.models.ipc import from_ipc, to_ipc
from scorers.models.loading import LoadedModel, load_model
from scorers.models.scoring import OnRows, Stats, score_examples
from scorers.models.settings import ModelSettings

METRICS_NAMESPACE = "scorers"


@dataclass(frozen=True)
class ScoringBatch:
    """Examples to score together.

    Attributes:
        unit: Name of the piece of work, for the one who stores the scores.
        examples: Columns id, messages, tools of the canonical schema.
    """

    unit: str
    examples: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.examples.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return _scoring_batch_from_ipc, (self.unit, to_ipc(self.examples))


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of one `ScoringBatch`, row by row, and what it took (see `score_examples`)."""

    unit: str
    scores: pa.RecordBatch
    stats: Stats

    def __len__(self) -> int:
        return int(self.scores.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return _scored_batch_from_ipc, (self.unit, to_ipc(self.scores), self.stats)


class CausalLMHandler(ModelHandler[ScoringBatch, ScoredBatch, LoadedModel]):
    """Scores batches with a causal language model.

    What it took travels with the scores, as `ScoredBatch.stats`.

    Args:
        settings: The model.
        scorers: Names in the catalog.
        store_tokens: Whether token ids and the loss of each response token are stored.
        store_outputs: Outputs of the conditional view that are stored as they are.
        threads: Micro-batches that run side by side on CPU, in each worker process.
        on_rows: Told of progress inside the worker; must pickle.
    """

    def __init__(
        self,
        settings: ModelSettings,
        scorers: Sequence[str],
        *,
        store_tokens: bool = False,
        store_outputs: Sequence[Output] = (),
        threads: int = 1,
        on_rows: OnRows | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._scorers = tuple(scorers)
        self._store_tokens = store_tokens
        self._store_outputs = tuple(store_outputs)
        self._threads = threads
        self._on_rows = on_rows

    def load_model(self) -> LoadedModel:
        """Loads the model, once in a process."""
        return load_model(self._settings)

    def run_inference(
        self, batch: ScoringBatch, model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterator[ScoredBatch]:
        """Scores one batch; yields one result."""
        scores, stats = score_examples(
            model,
            batch.examples,
            self._scorers,
            store_tokens=self._store_tokens,
            store_outputs=self._store_outputs,
            threads=self._threads,
            on_rows=self._on_rows,
        )
        yield ScoredBatch(batch.unit, scores, stats)

    def should_skip_batching(self) -> bool:
        """An element is a batch already."""
        return True

    def get_num_bytes(self, batch: ScoringBatch) -> int:
        """Size for Beam's metric; its default pickles the whole batch to find out."""
        return int(batch.examples.nbytes)

    def get_metrics_namespace(self) -> str:
        """Where Beam puts its own metrics of this handler."""
        return METRICS_NAMESPACE


def _scoring_batch_from_ipc(unit: str, data: bytes) -> ScoringBatch:
    return ScoringBatch(unit, from_ipc(data))


def _scored_batch_from_ipc(unit: str, data: bytes, stats: Stats) -> ScoredBatch:
    return ScoredBatch(unit, from_ipc(data), stats)
