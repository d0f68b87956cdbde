"""`winnow schema --format markdown`: the reference of recipes, docs/recipes.md, from the JSON schema."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.recipe_examples import SECTIONS, STEPS
from pipelines.recipe_schema import BUDGET, Schema, recipe_schema
from scorers.base import ROW_OUTPUTS, TOKEN_OUTPUTS, output_column
from scorers.catalog import SCORERS

_OPENING = """\
<!-- Written by `winnow schema --format markdown`; change the settings, not this page. -->

# Recipes

A recipe is a YAML file that says what a run does. This page lists every key; [methods](methods.md) says what
each scorer and selector computes, and [choosing](choosing.md) which to take. `winnow init` writes a recipe to
start from, `winnow init --recipe NAME` one of a published pipeline, and `winnow validate` checks one with its
inputs and models.

- An unknown key is an error that names the nearest known one.
- Relative paths start at the folder in which the command runs.
- `--set select.0.random.keep=0.2` changes one value for one run; items of lists are numbered from 0.
- No value may hold a credential: recipes are written into the manifest and the report.
- Editors with a YAML language server complete and check a recipe whose first line is
  `# yaml-language-server: $schema=recipe.schema.json`. `winnow init` writes that line and the file beside the
  recipe; `winnow schema > recipe.schema.json` renews it.
"""


@dataclass(frozen=True)
class Place:
    """A section of the page.

    Attributes:
        title: Its heading.
        settings: Name of its definition in the schema; "" for none.
        more: What there is to say beside the definition's own description.
    """

    title: str
    settings: str
    more: str = ""

    @property
    def anchor(self) -> str:
        """What a link to it ends with."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")


_EMBED = "`model` has the keys of [embed](#embed-the-embedding-model)."
_MODEL = "[model](#model-the-model-that-will-be-tuned)"
_PLACES = {
    "inputs": Place(
        "inputs: where rows come from",
        "InputSpec",
        "A list; each entry has exactly one of `path` and `dataset`. [Reading data](reading_data.md) says "
        "which files and chat formats are read.",
    ),
    "decontaminate": Place("decontaminate: evaluation sets", "DecontaminateSettings"),
    "decontaminate.against": Place(
        "decontaminate.against",
        "EvalSet",
        "A name of a known set, or a mapping of these keys; a set that is not known needs a `path`.",
    ),
    "decontaminate.embedding": Place("decontaminate.embedding", "EmbeddingMatch", _EMBED),
    "dedupe": Place(
        "dedupe: duplicates", "DedupeSettings", "[Duplicates](duplicates.md) says what counts as one."
    ),
    "dedupe.minhash": Place("dedupe.minhash", "MinHashSettings"),
    "dedupe.semantic": Place(
        "dedupe.semantic", "SemanticSettings", f"At most one of `threshold`, `keep` and `d4`. {_EMBED}"
    ),
    "dedupe.semantic.d4": Place("dedupe.semantic.d4", "D4Settings"),
    "dedupe.keep": Place("dedupe.keep", "KeepBy", "`longest_response` and `first` are rules without keys."),
    "model": Place("model: the model that will be tuned", "ModelSettings"),
    "models": Place(
        "models: what scorers compare it with",
        "",
        "A mapping of the roles `reference`, `base` and `previous` to models, each with the keys of "
        f"{_MODEL}. [Methods](methods.md#scorers) says which scorer reads which.",
    ),
    "check": Place(
        "check: answers in the text",
        "CheckSettings",
        "It gives the columns `answer`, `correct` (with `gold`), `wrong_calculations`, `wrong_calculation` "
        "and `prompt_overlap`.",
    ),
    "embed": Place("embed: the embedding model", "EmbeddingSettings"),
    "emit": Place("emit: what the training set carries", "EmitSettings"),
}
"""By place in a recipe."""

_HEAD = ("| key | value | default | meaning |", "|---|---|---|---|")
_ANCHORS = {place.settings: place.anchor for place in _PLACES.values() if place.settings}


def reference() -> str:
    """The page, in Markdown."""
    schema = recipe_schema()
    definitions = schema["$defs"]
    lines = [_OPENING, "## The top of a recipe", "", *_table(schema), "", *_example(SECTIONS[""])]
    for name, place in _PLACES.items():
        lines += ["", f"{'#' * (2 + name.count('.'))} {place.title}", "", *_said(place, definitions)]
        if place.settings:
            lines += [*_table(definitions[place.settings]), ""]
        lines += _example(SECTIONS[name])
    lines += ["", *_scores(), "", *_stored(schema["properties"]["store"]), "", *_selectors(definitions)]
    return "\n".join(lines) + "\n"


def _said(place: Place, definitions: dict[str, Schema]) -> Iterator[str]:
    described = definitions[place.settings]["description"] if place.settings else ""
    said = " ".join([*described.split(), place.more]).strip()
    yield from (*textwrap.wrap(said, 116, break_long_words=False, break_on_hyphens=False), "")


def _table(definition: Schema) -> Iterator[str]:
    required = definition.get("required", ())
    fields = dict(definition["properties"])
    yield from _HEAD
    if BUDGET[1] in fields:
        for key in BUDGET:
            del fields[key]
        keys = ", ".join(f"`{key}`" for key in BUDGET)
        yield f"| {keys} | [budget](#budgets) | | how much is kept |"
    for key, field in fields.items():
        default = "**required**" if key in required else _default(field)
        meaning = field["description"].replace("|", "\\|")
        yield f"| `{key}` | {_kind(field)} | {default} | {meaning} |"


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "null" if "default" in field else "empty" if field.get("type") == "object" else "its defaults"
    if value in ([], {}):
        return "empty"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _kind(field: Schema) -> str:
    """What a value may be, in words."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return f"[mapping](#{_ANCHORS[field['$ref'].rsplit('/', 1)[-1]]})"
    if "anyOf" in field:
        return _alternatives(field["anyOf"])
    return _KINDS[field["type"]](field)


def _alternatives(kinds: list[Schema]) -> str:
    one = " or ".join(_kind(kind) for kind in kinds if kind.get("type") not in ("null", "array"))
    many = [_kind(kind) for kind in kinds if kind.get("type") == "array"]
    if many == [f"list of: {one}"]:
        return f"{one}, or a list of these"
    return " or ".join([one, *many]) if one else many[0]


def _mapping(field: Schema) -> str:
    if not field.get("additionalProperties"):
        return "[steps](#select-what-is-kept)"
    names = field.get("propertyNames", {}).get("enum", ["names"])
    keys = "names" if names == ["names"] else ", ".join(f"`{name}`" for name in names)
    return f"mapping of {keys} to: {_kind(field['additionalProperties'])}"


_KINDS: dict[str, Callable[[Schema], str]] = {
    "array": lambda field: f"list of: {_kind(field['items'])}",
    "object": _mapping,
    "number": lambda field: f"number{_bounds(field)}",
    "integer": lambda field: f"whole number{_bounds(field)}",
    "boolean": lambda _: "`true`, `false`",
    "string": lambda _: "text",
}


def _bounds(field: Schema) -> str:
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    said = [f"{word} {field[key]:g}" for key, word in words if key in field]
    return f", {', '.join(said)}" if said else ""


def _example(text: str) -> list[str]:
    return ["```yaml", text.rstrip(), "```"]


def _scores() -> Iterator[str]:
    yield "## score: what is computed"
    yield ""
    yield "A list of names. What each number means, and what it costs: [methods](methods.md#scorers)."
    yield ""
    yield "| name | columns |"
    yield "|---|---|"
    for name, scorer in SCORERS.items():
        yield f"| `{name}` | {', '.join(f'`{column.name}`' for column in scorer.columns)} |"


def _stored(field: Schema) -> Iterator[str]:
    yield "## store: what is kept beside the scores"
    yield ""
    yield "A list of outputs of the pass over the response after its prompt. Those of tokens are lists"
    yield "aligned with `response_at`, the places of the response tokens in `input_ids`."
    yield ""
    yield "| name | column in OUT/scores | meaning |"
    yield "|---|---|---|"
    for name, meaning in (TOKEN_OUTPUTS | ROW_OUTPUTS).items():
        if name in field["items"]["enum"]:
            yield f"| `{name}` | `{output_column(name)}` | {meaning} |"
    yield ""
    yield from _example(SECTIONS["store"])


_STEPS = """\
## select: what is kept

A list of steps; each is one selector with its options, and decides about the rows that the step before kept.
Columns are those of `score` and `check`, `prompt_tokens` and `response_tokens`, and fields of the input as
`extra.NAME`.

### Budgets

Exactly one of these keys; `verdict` alone may do without, and keeps all that its rules keep. A token budget
stops before the first row that would exceed it.
"""


def _selectors(definitions: dict[str, Any]) -> Iterator[str]:
    yield _STEPS
    budget = {key: definitions["select.random"]["properties"][key] for key in BUDGET}
    yield from _HEAD
    for key, field in budget.items():
        yield f"| `{key}` | {_kind(field)} | null | {field['description']} |"
    for name, steps in STEPS.items():
        definition = definitions[f"select.{name}"]
        said = " ".join(definition["description"].split())
        yield from ("", f"### {name}", "", f"{said} [How it decides](methods.md#{name}-selector).", "")
        if definition["properties"]:
            yield from (*_table(definition), "")
        others = [f"  # - {step}" for step in steps[1:]]
        yield from _example("\n".join(["select:", f"  - {steps[0]}", *others]))
