"""Recipes: the YAML file that says what a run does, checked before anything starts.

Unknown keys are errors that name the nearest known one; a selector that reads a score the recipe does not
compute is an error that names the scorer to add.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from connectors.readers import InputSpec
from connectors.secrets import holds_secret, without_secrets
from connectors.settings import nearest, parse_settings
from pipelines.check_settings import CHECK_COLUMNS, CheckSettings
from pipelines.decontaminate.settings import DecontaminateSettings
from pipelines.dedupe.settings import DedupeSettings
from pipelines.selectors.base import FIELD, Selector, VectorSelector
from pipelines.selectors.catalog import parse_selector
from scorers.base import Output, Role
from scorers.catalog import SCORERS, beside_losses, check_roles, columns_of, comparing, in_one_pass
from scorers.models.settings import EmbeddingSettings, ModelSettings

# Far above any recipe, and far below what would take a second or a gigabyte.
_MAX_RECIPE_BYTES = 2**20
_MAX_RECIPE_VALUES = 100_000
_MAX_RECIPE_DEPTH = 50
_MAX_QUOTED = 2000  # characters of another library's message


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
        description="input_ids and labels of the target tokenizer; auto: when a selector prunes tokens",
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

    name: str = Field(description="name of the resulting set")
    seed: int = Field(0, description="the one number all randomness derives from")
    inputs: tuple[InputSpec, ...] = Field(min_length=1, description="where rows come from")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="share of unreadable rows above which the run fails after reading"
    )
    max_failed_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of rows a model may fail on (an error, NaN or infinity) before the run fails",
    )
    model: ModelSettings | None = Field(
        None, description="the model that will be tuned; it computes the scores"
    )
    dedupe: DedupeSettings = Field(default_factory=lambda: DedupeSettings(), description="duplicate removal")
    decontaminate: DecontaminateSettings | None = Field(
        None, description="drop rows that hold items of evaluation sets"
    )
    models: dict[Role, ModelSettings] = Field(
        default_factory=dict, description="models that scorers compare the target with, by role"
    )
    check: CheckSettings | None = Field(
        None, description="how answers are read, and where the right ones are; on by itself when needed"
    )
    embed: EmbeddingSettings | None = Field(
        None, description="the embedding model, for selectors that read vectors"
    )
    score: tuple[str, ...] = Field((), description="scorers to compute, see `winnow methods`")
    store: tuple[StoredOutput, ...] = Field(
        (), description="outputs of the model to keep beside the scores: per response token, or per row"
    )
    select: tuple[Any, ...] = Field(
        (), description="selectors, applied one after the other; none keeps every row"
    )
    emit: EmitSettings = Field(
        default_factory=lambda: EmitSettings(tokens="auto"), description="what to write"
    )
    output: str | None = Field(None, description="output folder")

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


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe file.

    Args:
        path: The YAML file.
        overrides: `key.path=value` texts, as given with `--set`; list items by number
            (`select.0.q_tuning.keep=0.3`).

    Raises:
        RecipeError: For a file that is not there or not YAML, and for a recipe that cannot run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}. Write one with `winnow init`.") from error
    if len(content) > _MAX_RECIPE_BYTES:
        raise RecipeError(
            f"{path}: a recipe above {_MAX_RECIPE_BYTES:,} bytes is not read; is it a data file?"
        )
    raw = _plain_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of keys (name, inputs, ...), found {type(raw).__name__}"
        )
    for text in overrides:
        _override(raw, text)
    return parse_recipe(raw, str(path))


def _plain_yaml(text: str | bytes, where: str) -> Any:  # noqa: ANN401 - any YAML
    """YAML as plain data, none of it twice: what aliases repeat counts as often as it is repeated.

    Raises:
        RecipeError: If it is not YAML, asks for objects, or holds more than any recipe does.
    """
    try:
        value = yaml.safe_load(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise RecipeError(f"{where}: nested too deeply for a recipe") from error
    # A value that a tag or its shape promises and that is not one (`!!int ""`, a 99th of January) ends the
    # reading with whatever error Python's own conversion has.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise RecipeError(f"{where}: not YAML: {without_secrets(str(error))[:_MAX_QUOTED]}") from error
    _check_values(value, where)
    return value


def _check_values(value: Any, where: str) -> None:  # noqa: ANN401 - any YAML
    """Raises RecipeError for what no recipe may hold: too much, text that is not Unicode, credentials."""
    left, pending = _MAX_RECIPE_VALUES, [(value, 0)]
    while pending:
        item, depth = pending.pop()
        left -= 1
        if left < 0 or depth > _MAX_RECIPE_DEPTH:
            raise RecipeError(
                f"{where}: more than {_MAX_RECIPE_VALUES:,} values or {_MAX_RECIPE_DEPTH} levels once its "
                "aliases are unfolded; write the values out, or fewer of them"
            )
        if isinstance(item, str):
            _check_text(item, where)
        inner = [*item, *item.values()] if isinstance(item, dict) else item
        if isinstance(inner, list | tuple | set):
            pending += [(part, depth + 1) for part in inner]


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"{where}: the text {text[:60]!r} holds half of a surrogate pair") from error
    if holds_secret(text):
        raise RecipeError(
            f"{where}: {without_secrets(text)[:200]!r} holds a credential (shown as ***), and a recipe "
            "is written into the manifest and the report. Give it in the environment, or in the file of the "
            "tool that uses it: AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN"
        )


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Checks a recipe given as plain data.

    Raises:
        RecipeError: Naming each key that is wrong.
    """
    _check_values(raw, where or "recipe")
    try:
        return parse_settings(Recipe, raw, where)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _override(raw: dict[str, Any], text: str) -> None:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise RecipeError(
            f"--set {text}: wanted key.path=value, for example --set dedupe.minhash.threshold=0.9"
        )
    *parents, last = path.split(".")
    target: Any = raw
    for part in parents:
        target = _step(target, part, text)
    parsed = _plain_yaml(value, f"--set {text}")
    if isinstance(target, list):
        target[_index(target, last, text)] = parsed
    else:
        target[last] = parsed


def _step(target: Any, part: str, text: str) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(target, list):
        return target[_index(target, part, text)]
    if target.get(part) is None:
        target[part] = {}
    if not isinstance(target[part], dict | list):
        raise RecipeError(f"--set {text}: `{part}` holds {target[part]!r}, which has no keys")
    return target[part]


def _index(target: list[Any], part: str, text: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise RecipeError(f"--set {text}: `{part}` is no item of a list of {len(target)} (counted from 0)")
    return int(part)
