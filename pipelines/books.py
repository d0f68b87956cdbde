"""The books of a run: what its manifest says, and that no row was lost or doubled on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from connectors.manifest import installed_versions, json_hash
from pipelines.recipe import Recipe
from pipelines.stages import StageResult


class UnbalancedBooks(RuntimeError):  # noqa: N818 - reads as what happened
    """Rows were lost or doubled on the way: read is not bad + dropped + kept."""


def make_manifest(
    recipe: Recipe, stages: Sequence[StageResult], described: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The manifest of a run whose stages are done.

    Args:
        recipe: What was run.
        stages: All of its stages.
        described: run_id, inputs, models and limit, as the manifest has them.
        seconds: Wall time of this run.
    """
    by_name = {stage.name: stage for stage in stages}
    ingested, clusters, emitted = by_name["ingest"].stats, by_name["clusters"].stats, by_name["emit"].stats
    scored = by_name["score"].stats if "score" in by_name else {}
    contaminated = by_name["decontaminate"].stats if "decontaminate" in by_name else {}
    resolved = recipe.resolved()
    return {
        "winnow_version": installed_versions()["winnow"],
        "name": recipe.name,
        "run_id": described["run_id"],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "recipe": resolved,
        "recipe_hash": json_hash({k: v for k, v in resolved.items() if k != "output"}),
        "seed": recipe.seed,
        "limit": described["limit"],
        "inputs": described["inputs"],
        "models": described["models"],
        "counts": {
            "read": ingested["rows"],
            "bad": ingested["bad"],
            "duplicates": {
                "exact": clusters["exact"],
                "near": clusters["near"],
                "semantic": by_name["semantic"].stats["semantic"] if "semantic" in by_name else 0,
            },
            "contaminated": contaminated.get("contaminated", 0),
            "not_scored": sum(n for status, n in scored.get("status", {}).items() if status != "ok"),
            "dropped": emitted["dropped"],
            "kept": emitted["kept"],
        },
        "tokens": {
            "scored": scored.get("tokens", 0),
            "kept": emitted["tokens_kept"],
            "trained": emitted["tokens_trained"],
        },
        "sources": ingested["sources"],
        "selection": by_name["select"].stats["facts"],
        "dropped_reasons": emitted["dropped_reasons"],
        "bad_reasons": ingested["bad_reasons"],
        "unreadable_files": ingested["unreadable_files"],
        "score_status": scored.get("status", {}),
        "stages": {stage.name: _stage_record(stage) for stage in stages},
        "seconds": round(seconds, 2),
        "versions": installed_versions(),
    }


def _stage_record(stage: StageResult) -> dict[str, Any]:
    rate = stage.rate
    record = {
        "key": stage.key,
        "rows": stage.stats.get("rows", 0),
        "seconds": stage.seconds,
        "rows_per_s": round(rate, 1) if rate else None,
        "resumed": stage.resumed,
        "reused": stage.reused,
        "metrics": stage.metrics,
    }
    tokens = stage.stats.get("tokens")
    if tokens:
        record["tokens_per_s"] = round(tokens / stage.seconds, 1) if rate else None
        record["padded_tokens"] = stage.stats["padded_tokens"]
        record["flop_per_s"] = round(stage.stats["flop"] / stage.seconds) if rate else None
    return record


def check_books(counts: dict[str, Any]) -> None:
    """Holds read = bad + dropped + kept.

    Raises:
        UnbalancedBooks: Saying by how many rows they differ.
    """
    accounted = counts["bad"] + counts["dropped"] + counts["kept"]
    if counts["read"] != accounted:
        raise UnbalancedBooks(
            f"the books do not balance: {counts['read']:,} rows read, but {counts['bad']:,} bad + "
            f"{counts['dropped']:,} dropped + {counts['kept']:,} kept = {accounted:,} "
            f"({counts['read'] - accounted:+,}). Nothing was published. "
            "This is a fault of winnow; please report it."
        )
