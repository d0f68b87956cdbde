"""The `dedupe` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.dedupe.semantic_settings import SemanticSettings

Scope = Literal["prompt", "response", "both"]
GramUnit = Literal["word", "char"]


class MinHashSettings(BaseModel):
    """What counts as a near-duplicate: the `minhash` part of a recipe's `dedupe` section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="lowest Jaccard similarity of two near-duplicates"
    )
    ngram: int = Field(default=5, ge=1, le=1000, description="words, or characters, in a shingle")
    unit: GramUnit = Field(default="word", description="what ngram counts: word or char")
    scope: Scope = Field(default="both", description="what is compared: prompt, response or both")
    permutations: int = Field(default=128, ge=16, le=4096, description="numbers in a MinHash signature")


class KeepBy(BaseModel):
    """A rule for which member of a cluster stays: exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="the member whose source comes first in this list"
    )
    highest: str | None = Field(
        default=None, min_length=1, description="the member with the highest number in this input field"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.source is None) == (self.highest is None):
            raise ValueError("a rule has either `source` (a list of sources) or `highest` (an input field)")
        return self


KeepRule = Literal["longest_response", "first"] | KeepBy


class DedupeSettings(BaseModel):
    """The `dedupe` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="drop examples of equal normalised content")
    minhash: MinHashSettings | None = Field(
        default=None, description="also drop near-duplicates, exact ones included"
    )
    semantic: SemanticSettings | None = Field(
        default=None, description="also drop what means the same, by embeddings"
    )
    keep: tuple[KeepRule, ...] = Field(
        default=("longest_response",),
        description="which of a cluster stays, by rules of falling weight; ties and `first`: the smallest id",
    )
    against: tuple[str, ...] = Field(
        default=(), description="outputs of earlier runs; rows that repeat one of theirs are dropped"
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _one_rule_is_a_list(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the recipe says
        return [value] if isinstance(value, str | dict) else value

    @property
    def fields(self) -> tuple[str, ...]:
        """Input fields that the keep rules read, in order of name."""
        return tuple(sorted({r.highest for r in self.keep if isinstance(r, KeepBy) and r.highest}))
