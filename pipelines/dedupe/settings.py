"""The `dedupe` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.dedupe.semantic_settings import SemanticSettings

Scope = Literal["prompt", "response", "both"]
GramUnit = Literal["word", "char"]


class MinHashSettings(BaseModel):
    """What counts as a near duplicate: rows that share most of their shingles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="least Jaccard similarity of two near duplicates, verified for every pair; a lower one "
        "drops more rows",
    )
    ngram: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="words, or characters, in a shingle; more of them make two texts less alike",
    )
    unit: GramUnit = Field(default="word", description="what ngram counts: words or characters")
    scope: Scope = Field(
        default="both", description="text that is compared: the prompt, the response, or both"
    )
    permutations: int = Field(
        default=128,
        ge=16,
        le=4096,
        description="numbers in a MinHash signature; more of them find more of the pairs near the "
        "threshold, for more time",
    )


class KeepBy(BaseModel):
    """A rule for which row of a cluster stays, with exactly one of its two keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="sources, best first: the row whose source comes first in this list stays",
    )
    highest: str | None = Field(
        default=None,
        min_length=1,
        description="field of the input that holds a number: the row of the highest stays",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.source is None) == (self.highest is None):
            raise ValueError("a rule has either `source` (a list of sources) or `highest` (an input field)")
        return self


KeepRule = Literal["longest_response", "first"] | KeepBy


class DedupeSettings(BaseModel):
    """Which rows repeat another one, and which of them stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(
        default=True,
        description="drop rows whose conversation equals another's after Unicode NFC, lower case and folded"
        " white space",
    )
    minhash: MinHashSettings | None = Field(
        default=None, description="also drop near duplicates; null: only exact ones are looked for"
    )
    semantic: SemanticSettings | None = Field(
        default=None,
        description="also drop rows that mean the same as another by their embeddings; needs the extra "
        "winnow[cpu] or [gpu] beyond 20,000 rows",
    )
    keep: tuple[KeepRule, ...] = Field(
        default=("longest_response",),
        description="rules, of falling weight, for which row of a cluster stays; ties, and the rule first, "
        "take the smallest id",
    )
    against: tuple[str, ...] = Field(
        default=(),
        description="output folders of earlier runs; rows that repeat one of their training sets are dropped",
    )

    @field_validator("keep", mode="before", json_schema_input_type=KeepRule | list[KeepRule])
    @classmethod
    def _one_rule_is_a_list(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the recipe says
        return [value] if isinstance(value, str | dict) else value

    @property
    def fields(self) -> tuple[str, ...]:
        """Input fields that the keep rules read, in order of name."""
        return tuple(sorted({r.highest for r in self.keep if isinstance(r, KeepBy) and r.highest}))
