"""Beam metrics of the stages: what each counts, and how they come into the manifest.

A metric's name begins with its unit, and its namespace is the stage's name. Counters are sums, distributions
have count, sum, min and max. They are updated once for a file or a batch, never for a row. They tell what the
attempt did that finished the stage: files that an earlier attempt left are not counted again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter

_LOG = logging.getLogger(__name__)

_WRITTEN = {"bytes_written": "bytes of the files it made"}
COUNTERS: dict[str, dict[str, str]] = {
    "ingest": {
        "rows_read": "examples and bad rows",
        "rows_bad": "rows that could not be read",
        "bytes_read": "bytes of input, as stored",
    },
    "decontaminate": {
        "rows_searched": "rows compared with the evaluation sets",
        "rows_dropped": "rows that hold an item of one",
    },
    "signatures": {"rows_signed": "rows hashed"},
    "clusters": {
        "pairs_found": "pairs of equal rows and, once for each band they share, of verified near ones",
        "rows_dropped": "exact and near duplicates",
    },
    "embed": {
        "rows_embedded": "rows with a vector",
        "rows_not_embedded": "rows without one",
        "rows_truncated": "rows whose text was cut",
        "rows_failed": "rows the model failed on, of those without a vector",
        "milliseconds_model": "time in the model, tokenising included, summed over processes",
    },
    "similarity": {
        "rows_compared": "rows with a vector",
        "pairs_compared": "pairs of vectors within the clusters",
    },
    "semantic": {"rows_dropped": "semantic duplicates"},
    "check": {"rows_checked": "responses read"},
    "score": {
        "rows_scored": "rows with scores",
        "rows_not_scored": "rows without, for any reason",
        "rows_failed": "rows the model failed on, of those without",
        "tokens_scored": "tokens the model read, in all views",
        "tokens_padding": "tokens of padding beside them",
        "tokens_response": "response tokens of rows with scores",
        "calls_model": "forward calls",
        "calls_out_of_memory": "forward calls that ran out of memory and were tried again in parts",
        "milliseconds_model": "time of scoring, tokenising included, summed over processes",
    },
    "compare": {"rows_compared": "rows that both models scored with the same tokens"},
    "select": {"rows_kept": "rows kept", "rows_dropped": "rows dropped, those without scores included"},
    "emit": {
        "rows_kept": "rows of train/",
        "rows_dropped": "rows of dropped/, those dropped before included",
        "tokens_kept": "tokens of train/, prompt and response",
    },
    "suspects": {"rows_listed": "rows of suspects/"},
}
"""What each kind of stage counts, beside `bytes_written`."""

DISTRIBUTIONS: dict[str, str] = {"milliseconds_task": "time of one file or batch"}
"""What every stage measures of each of its tasks."""

_SAME = {"vectors": "embed"}  # stages that do the same under another name


def kind_of(stage: str) -> str:
    """The kind of a stage: `score-reference` is a score, `older-0` makes signatures.

    Example:
        >>> kind_of("score-reference"), kind_of("older-0"), kind_of("vectors")
        ('score', 'signatures', 'embed')
    """
    first = stage.partition("-")[0]
    return "signatures" if first == "older" else _SAME.get(first, first)


def counters_of(stage: str) -> dict[str, str]:
    """The counters of a stage and what they count."""
    return COUNTERS.get(kind_of(stage), {}) | _WRITTEN


class StageMetrics:
    """The metrics of one stage; picklable, and without effect outside of a pipeline.

    Args:
        stage: The stage's name, which is the namespace.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._counters = {name: Metrics.counter(stage, name) for name in counters_of(stage)}
        self._milliseconds = Metrics.distribution(stage, "milliseconds_task")

    def __reduce__(self) -> tuple[type[StageMetrics], tuple[str]]:
        return (StageMetrics, (self.stage,))

    def __call__(self, **numbers: float) -> None:
        """Adds to counters of the stage.

        Raises:
            KeyError: If the stage has no such counter.
        """
        for name, number in numbers.items():
            self._counters[name].inc(round(number))

    def took(self, seconds: float) -> None:
        """Notes the time of a task."""
        self._milliseconds.update(round(1000 * seconds))

    @contextmanager
    def task(self) -> Iterator[None]:
        """Measures the time of a task."""
        began = time.perf_counter()
        yield
        self.took(time.perf_counter() - began)


def stage_metrics(result: Any, stage: str) -> dict[str, Any]:  # noqa: ANN401 - Beam ships no types
    """The metrics of a pipeline that ran, by name; those nobody updated are left out.

    Args:
        result: Beam's PipelineResult.
        stage: The stage's name.

    Returns:
        A number for a counter; {count, sum, min, max} for a distribution. Committed values, or what was
        attempted where a runner does not tell them apart; nothing from a runner that has no metrics.
    """
    import grpc

    try:
        found = result.metrics().query(MetricsFilter().with_namespace(stage))
    except (NotImplementedError, grpc.RpcError) as error:
        _LOG.warning("stage %s is done, but its runner gave no metrics: %s", stage, error)
        return {}
    known: dict[str, Any] = {}
    for metric in found["counters"]:
        if metric.key.metric.name in counters_of(stage):
            known[metric.key.metric.name] = known.get(metric.key.metric.name, 0) + (_value(metric) or 0)
    for metric in found["distributions"]:
        if metric.key.metric.name in DISTRIBUTIONS and (found_value := _value(metric)) is not None:
            _add(known.setdefault(metric.key.metric.name, {}), found_value)
    return dict(sorted(known.items()))


def _value(metric: Any) -> Any:  # noqa: ANN401 - Beam ships no types
    """The committed value, else the attempted one; Beam's own `result` takes a committed 0 for none."""
    return metric.attempted if metric.committed is None else metric.committed


def _add(total: dict[str, int], found: Any) -> None:  # noqa: ANN401 - Beam ships no types
    """Adds a distribution of one step to that of the stage."""
    if not found.count:
        return
    lowest, highest = int(found.min), int(found.max)
    total["min"] = min(total.get("min", lowest), lowest)
    total["max"] = max(total.get("max", highest), highest)
    total["sum"] = total.get("sum", 0) + int(found.sum)
    total["count"] = total.get("count", 0) + int(found.count)
