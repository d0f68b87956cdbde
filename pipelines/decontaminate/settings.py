"""The `decontaminate` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.dedupe.settings import Scope
from scorers.models.settings import EmbeddingSettings

KnownName = Literal["gsm8k", "gsm_hard", "math500", "humaneval", "mbpp", "truthfulqa", "mt_bench"]
KNOWN_NAMES: tuple[KnownName, ...] = get_args(KnownName)


class EvalSet(BaseModel):
    """One evaluation set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        default=None,
        min_length=1,
        description=f"a known set ({', '.join(KNOWN_NAMES)}), or a name of your own for the report",
    )
    path: str | None = Field(
        default=None, description="file, folder or glob; default for a known set: the Hugging Face hub"
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="`prompt` and `response`: names of the fields that hold them"
    )

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in ("prompt", "response"):
                raise ValueError(f"unknown field name {name!r}; wanted prompt or response")
        return value

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.path is None and self.name not in KNOWN_NAMES:
            raise ValueError(
                f"set {self.name!r} is not one of {', '.join(KNOWN_NAMES)}, so it needs a `path`"
            )
        return self

    @property
    def set_name(self) -> str:
        """The name, or one made from the path."""
        if self.name:
            return self.name
        return str(self.path).rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]


OneSet = KnownName | EvalSet


class EmbeddingMatch(BaseModel):
    """Which rows are near an item in meaning, whatever their words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: EmbeddingSettings = Field(
        description="embedding model; its scope is what is compared, of row and item alike"
    )
    threshold: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="least cosine similarity of a row and an item that is a hit; a lower one drops more rows",
    )


class DecontaminateSettings(BaseModel):
    """Which rows count as contaminated by evaluation sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    against: tuple[EvalSet, ...] = Field(
        min_length=1,
        description="the evaluation sets: names of known ones, or entries of name, path and fields",
    )
    ngram: int = Field(
        default=13,
        ge=5,
        le=100,
        description="words that a row and an item must share in sequence for a hit; fewer words find more",
    )
    scope: Scope = Field(
        default="both", description="part of a row that is searched: the prompt, the response, or both"
    )
    exact_prompt: bool = Field(
        default=True,
        description="whether a row whose whole prompt, of five words or more, is an item's is a hit too",
    )
    embedding: EmbeddingMatch | None = Field(
        default=None,
        description="also drop rows whose embedding is near an item's; look at the hits before you trust a "
        "threshold",
    )

    @field_validator(
        "against", mode="before", json_schema_input_type=OneSet | Annotated[list[OneSet], Field(min_length=1)]
    )
    @classmethod
    def _names_are_sets(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the recipe says
        items = [value] if isinstance(value, str | dict) else value
        if not isinstance(items, list | tuple):
            return items
        return [{"name": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [item.set_name for item in self.against]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are called {name!r}; give each its own `name`")
        return self
