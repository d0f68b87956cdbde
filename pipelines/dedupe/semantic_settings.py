"""The `semantic` part of a recipe's `dedupe` section."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scorers.models.settings import EmbeddingSettings

DEFAULT_THRESHOLD = 0.95
WhichToKeep = Literal["hard", "easy", "random"]


class D4Settings(BaseModel):
    """What D4 keeps: pipelines/dedupe/d4.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: float = Field(gt=0, le=1, description="share of the embedded rows to keep in all")
    dedupe_keep: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of the embedded rows that the first step, semantic dedupe, leaves",
    )
    clusters: int | None = Field(
        default=None, ge=1, description="clusters of the second step; null: by the number of rows left"
    )

    @model_validator(mode="after")
    def _second_step_keeps_less(self) -> Self:
        if self.keep > self.dedupe_keep:
            raise ValueError(
                f"d4: keep {self.keep} is above dedupe_keep {self.dedupe_keep}; the second step drops rows"
            )
        return self


class SemanticSettings(BaseModel):
    """Which rows mean the same: pipelines/dedupe/semdedup.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: EmbeddingSettings = Field(
        description="the embedding model; its scope is the text that is compared"
    )
    threshold: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="drop rows of a higher cosine similarity to a row before them in their cluster; null "
        f"without keep and d4: {DEFAULT_THRESHOLD}",
    )
    keep: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the embedded rows to keep, the least alike; instead of threshold",
    )
    d4: D4Settings | None = Field(
        default=None, description="drop the most typical rows too, as D4 does; instead of threshold and keep"
    )
    clusters: int | None = Field(
        default=None,
        ge=1,
        description="clusters of k-means, within which rows are compared; null: by the number of rows, 1 up"
        " to 20,000",
    )
    which_to_keep: WhichToKeep = Field(
        default="hard",
        description="which of rows alike stays: hard, the farthest from its centroid; easy, the nearest; "
        "random",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("threshold", "keep", "d4") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"semantic: give only one of {', '.join(given)}")
        return self

    @property
    def rule(self) -> dict[str, Any]:
        """Which rows are dropped once the similarities are known: threshold, keep or d4, with its value."""
        if self.d4 is not None:
            return {"d4": self.d4.model_dump(mode="json")}
        if self.keep is not None:
            return {"keep": self.keep}
        return {"threshold": DEFAULT_THRESHOLD if self.threshold is None else self.threshold}
