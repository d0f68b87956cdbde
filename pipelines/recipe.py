"""Recipes: what a run does, checked before anything starts. recipe_file.py reads them from YAML.

Unknown keys are errors that name the nearest known one; a selector that reads a score the recipe does not
compute is an error that names the scorer to add.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from connectors.readers import InputSpec
from connectors.settings import nearest, parse_settings
from pipelines.check_settings import CHECK_COLUMNS, CheckSettings
from pipelines.decontaminate.settings import DecontaminateSettings
from pipelines.dedupe.settings import DedupeSettings
from pipelines.plain_values import why_refused
from pipelines.selectors.base import FIELD, Selector, VectorSelector
from pipelines.selectors.catalog import parse_selector
from scorers.base import Output, Role
from scorers.catalog import SCORERS, beside_losses, check_roles, columns_of, comparing, in_one_pass
from scorers.models.settings import EmbeddingSettings, ModelSettings


class RecipeError(ValueError):
    """A recipe that cannot run; the message says where and what to do."""


StoredOutput = typing.Literal[
    "logprob", "entropy", "top1", "top1_logprob", "rank", "el2n", "logit_gap", "log_partition", "grad_norm",
    "hidden_mean", "hidden_last",
]  # fmt: skip


class EmitSettings(BaseModel):
    """What the training set carries besides conversations, scores and decisions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: typing.Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether input_ids and labels of the target's tokenizer are written; auto: where a "
        "selector prunes or weighs tokens",
    )


@dataclass(frozen=True)
class ModelPass:
    """What one model does in a run.

    Attributes:
        role: "" for the target.
        settings: The model.
        scorers: Computed as it runs.
        tokens: Whether token ids and per-token losses are stored.
        outputs: Further outputs that are stored.
    """

    role: Role | typing.Literal[""]
    settings: ModelSettings
    scorers: tuple[str, ...]
    tokens: bool
    outputs: tuple[Output, ...]

    @property
    def stage(self) -> str:
        """Name of its stage."""
        return f"score-{self.role}" if self.role else "score"


class Recipe(BaseModel):
    """One run, as written in a recipe file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the resulting set, for the report, the card and the manifest")
    seed: int = Field(
        0,
        description="the one number that all randomness derives from; another seed gives another sample, "
        "and nothing else",
    )
    inputs: tuple[InputSpec, ...] = Field(
        min_length=1, description="where rows come from; their order does not matter"
    )
    max_bad_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="largest share of rows that may be unreadable; above it the run fails after reading, "
        "with a table of reasons",
    )
    max_failed_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="largest share of rows that a model may fail on (an error, NaN or infinity); above it "
        "the run fails after the stage of that model",
    )
    model: ModelSettings | None = Field(
        None,
        description="the target: the model that will be tuned, as it is before that; it computes the scores",
    )
    dedupe: DedupeSettings = Field(
        default_factory=lambda: DedupeSettings(),
        description="which duplicates are dropped, and which of them stays",
    )
    decontaminate: DecontaminateSettings | None = Field(
        None,
        description="which evaluation sets the training set must not hold; this stage is the first, over "
        "every row",
    )
    models: dict[Role, ModelSettings] = Field(
        default_factory=dict,
        description="models that scorers compare the target with, by role: reference, base or previous; "
        "they share its tokenizer and chat template",
    )
    check: CheckSettings | None = Field(
        None,
        description="how final answers are read out of responses, and which field holds the right ones; on "
        "by itself where a selector reads what it gives",
    )
    embed: EmbeddingSettings | None = Field(
        None, description="the embedding model, for selectors that read vectors of the rows"
    )
    score: tuple[str, ...] = Field(
        (),
        description="names of the scorers to compute; they share the passes of the model, and their order "
        "does not matter",
    )
    store: tuple[StoredOutput, ...] = Field(
        (),
        description="outputs of the model to keep in OUT/scores beside the scores: a list of numbers per "
        "response token, or of a row",
    )
    select: tuple[Any, ...] = Field(
        (),
        description="selectors, applied one after the other to the rows that the one before kept; none "
        "keeps every row",
    )
    emit: EmitSettings = Field(
        default_factory=lambda: EmitSettings(tokens="auto"),
        description="what the training set carries besides conversations, scores and decisions",
    )
    output: str | None = Field(
        None, description="output folder, or a place in s3:// or gs://; --output goes before it"
    )

    @field_validator("select", mode="before")
    @classmethod
    def _parse_selectors(cls, value: Any) -> tuple[Selector, ...]:  # noqa: ANN401 - raw YAML
        if not isinstance(value, list | tuple):
            raise ValueError("wanted a list of selectors, for example `- random: {keep: 0.5}`")
        for options in (step for item in value if isinstance(item, dict) for step in item.values()):
            if odd := [
                name for name in (options if isinstance(options, dict) else ()) if not isinstance(name, str)
            ]:
                raise ValueError(
                    f"the option {odd[0]!r} of a selector is no name; options are names with values"
                )
        return tuple(item if isinstance(item, Selector) else parse_selector(item) for item in value)

    @field_validator("score")
    @classmethod
    def _known_scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SCORERS:
                raise ValueError(f"unknown scorer {name!r}{nearest(name, SCORERS)}; see `winnow methods`")
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _models_fit(self) -> Self:
        if self.score and self.model is None:
            raise ValueError("`score:` needs a `model:` to score with, for example `model: {path: my/model}`")
        if self.store and not self.score:
            raise ValueError("`store:` needs a `model:` and at least one scorer in `score:`")
        if self.emit.tokens == "always" and not self.score:
            raise ValueError("emit.tokens: always needs a `model:` and at least one scorer in `score:`")
        check_roles(self.score, self.models)
        return self

    @model_validator(mode="after")
    def _selectors_fit(self) -> Self:
        available = {column.name for column in columns_of(self.score)} | {*CHECK_COLUMNS} - {"correct"}
        if self.check is not None and self.check.gold:
            available.add("correct")
        if self.score:
            available |= {"prompt_tokens", "response_tokens"}
        for selector in self.select:
            missing = [c for c in selector.reads if c not in available and not c.startswith(FIELD)]
            if missing:
                raise ValueError(
                    f"select: {selector.name} reads {', '.join(missing)}, which nothing computes; "
                    + _how_to_compute(missing)
                )
            if getattr(selector, "keep_tokens", None) is not None and not self.score:
                raise ValueError(
                    f"select: {selector.name} has keep_tokens, which needs a `model:` and a scorer"
                )
            if selector.token_reads and not self.score:
                raise ValueError(
                    f"select: {selector.name} reads tokens, which needs a model and `score: [loss]`"
                )
            if isinstance(selector, VectorSelector) and self.embed is None:
                raise ValueError(
                    f"select: {selector.name} reads vectors; name the model: `embed: {{path: ...}}`"
                )
        return self

    @property
    def stores_tokens(self) -> bool:
        """Whether token ids and per-token losses are kept with the scores."""
        read = any(selector.token_reads for selector in self.select) or bool(comparing(self.score))
        return bool(self.score) and (self.emit.tokens == "always" or read)

    @property
    def checks(self) -> CheckSettings | None:
        """How texts are checked: as the recipe says, or by default if a selector reads what that gives."""
        read = {column for selector in self.select for column in selector.reads}
        return self.check or (CheckSettings() if read & {*CHECK_COLUMNS} else None)

    @property
    def reads_vectors(self) -> bool:
        """Whether any selector reads the embeddings of the candidates."""
        return any(isinstance(selector, VectorSelector) for selector in self.select)

    def passes(self) -> Iterator[ModelPass]:
        """What each model computes and stores, the target first."""
        if self.model is None or not self.score:
            return
        outputs = {*self.store, *beside_losses(self.score, "")}
        yield ModelPass("", self.model, in_one_pass(self.score), self.stores_tokens, tuple(sorted(outputs)))
        for role, settings in sorted(self.models.items()):
            yield ModelPass(role, settings, (), True, beside_losses(self.score, role))

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, as plain JSON."""
        plain = self.model_dump(mode="json", exclude={"select"})
        plain["select"] = [{s.name: s.model_dump(mode="json")} for s in self.select]
        return plain


def _how_to_compute(missing: Sequence[str]) -> str:
    if "correct" in missing:
        return "say which field of the input holds the right answer: `check: {gold: FIELD}`"
    return f"add {', '.join(sorted(_scorers_of(missing)) or missing)} to `score:`"


def _scorers_of(columns: Sequence[str]) -> set[str]:
    return {name for name in SCORERS for column in columns_of((name,)) if column.name in columns}


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Checks a recipe given as plain data.

    Raises:
        RecipeError: Naming each key that is wrong.
    """
    if fault := why_refused(raw):
        raise RecipeError(f"{where or 'recipe'}: {fault}")
    try:
        return parse_settings(Recipe, raw, where)
    except ValueError as error:
        raise RecipeError(str(error)) from error
