"""Scores of a set of examples in memory: the same numbers as a run over the same rows gives."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from connectors.in_memory import Examples, read
from connectors.rows import Rows
from connectors.settings import parse_settings
from scorers.base import ROW_OUTPUTS, TOKEN_COLUMNS, TOKEN_OUTPUTS, Output, Role, output_column
from scorers.catalog import beside_losses, check_roles, comparing, in_one_pass, resolve
from scorers.models.columns import scores_schema
from scorers.models.comparison import check_compared, compare
from scorers.models.cores import usable_cores
from scorers.models.loading import LoadedModel, load_model
from scorers.models.scoring import OnRows, score_examples
from scorers.models.settings import ModelSettings

ModelLike = str | Path | Mapping[str, Any] | ModelSettings
"""A folder or hub id, or what `model:` in a recipe says."""


@dataclass(frozen=True)
class Asked:
    """What scores were asked for, as a recipe says it.

    Attributes:
        score: Names of scorers.
        model: The target.
        models: Models that it is compared with, by role.
        store: Outputs of the model that are published.
        tokens: Whether token ids and the loss of each response token are kept.
    """

    score: tuple[str, ...]
    model: ModelSettings
    models: dict[Role, ModelSettings]
    store: tuple[Output, ...]
    tokens: bool

    def as_recipe(self) -> dict[str, Any]:
        """The sections of a recipe that ask for the same."""
        return {
            "score": list(self.score),
            "model": self.model.model_dump(),
            "models": {role: settings.model_dump() for role, settings in self.models.items()},
            "store": list(self.store),
        }


class Scores(Rows):
    """Scores: id, status, token counts, a column for each score; null where one cannot be computed.

    The columns are those of `OUT/scores` of a run. Which direction is better, and the unit of each column:
    `winnow methods`.

    Attributes:
        table: The scores, in the order of the examples.
        examples: What was scored.
        asked: The models and scorers.
        messages: Why rows have no scores: text → number of rows.
        stored: What each model gave and what is kept of it, by role; "" is the target.
        compared: The columns of scorers that compare models; None without such.
    """

    def __init__(
        self,
        examples: Examples,
        asked: Asked,
        stored: Mapping[Role | str, pa.Table],
        compared: pa.Table | None,
        messages: Mapping[str, int],
    ) -> None:
        super().__init__(_published(stored[""], compared, asked.store), "rows")
        self.examples = examples
        self.asked = asked
        self.stored = dict(stored)
        self.compared = compared
        self.messages = dict(messages)

    def headline(self) -> str:
        """How many rows there are, how many have scores, and of which model."""
        counts = Counter(self.table["status"].to_pylist())
        others = "".join(
            f", {count:,} {status}" for status, count in sorted(counts.items()) if status != "ok"
        )
        return f"{super().headline()}: {counts['ok']:,} scored{others}; {self.asked.model.path}"


def score(
    examples: Any,  # noqa: ANN401 - all that `read` takes
    *,
    model: ModelLike,
    score: Sequence[str],
    models: Mapping[Role, ModelLike] | None = None,
    store: Sequence[Output] = (),
    tokens: bool = True,
    threads: int | None = None,
    progress: bool | None = None,
) -> Scores:
    """Scores examples with a model; every scorer that is named shares its passes.

    A score that cannot be computed is null, and `status` says why. A model is loaded once in a process.

    Args:
        examples: From `connectors.read`, or anything that it takes.
        model: The model that will be tuned: a folder or hub id, or a mapping with the keys of `model:` in a
            recipe, such as {"path": ..., "max_tokens": 2048}.
        score: Names of scorers, as under `score:` in a recipe.
        models: Models that scorers compare the target with, by role.
        store: Outputs of the model to keep beside the scores, as under `store:`.
        tokens: Whether to keep token ids and the loss of each response token, 12 bytes a token, for selectors
            that choose tokens. They are in `stored`, not in the table.
        threads: Forward calls side by side on CPU; default one for each core. Changes no bit of a score.
        progress: Whether to draw a bar on standard error; default only on a terminal.

    Raises:
        ValueError: If a scorer, a key or a model is unknown or does not fit; the message says what to do.
    """
    rows = read(examples)
    asked = _asked(model, score, models or {}, store, tokens)
    target_outputs = tuple(sorted({*asked.store, *beside_losses(asked.score, "")}))
    target_tokens = tokens or bool(comparing(asked.score))
    messages: Counter[str] = Counter()
    stored: dict[Role | str, pa.Table] = {}
    with _bar(progress, len(rows) * (1 + len(asked.models))) as on_rows:
        work = _Work(rows, threads or usable_cores(), on_rows, messages)
        stored[""] = work.run(asked.model, in_one_pass(asked.score), target_tokens, target_outputs)
        for role, settings in sorted(asked.models.items()):
            stored[role] = work.run(settings, (), True, beside_losses(asked.score, role))
    compared = None
    if asked.models:
        columns, counts = compare(stored, comparing(asked.score))
        check_compared(counts, asked.models)
        compared = pa.table({"id": stored[""]["id"], **columns})
    return Scores(rows, asked, stored, compared, messages)


@dataclass(frozen=True)
class _Work:
    """The rows that every model goes over, and who is told."""

    rows: Examples
    threads: int
    on_rows: OnRows | None
    messages: Counter[str]

    def run(
        self, settings: ModelSettings, scorers: Sequence[str], tokens: bool, outputs: Sequence[Output]
    ) -> pa.Table:
        """What one model gives, unit by unit."""
        loaded: LoadedModel = load_model(settings)
        parts = []
        for unit in self.rows.table.to_batches():
            scores, stats = score_examples(
                loaded, unit, scorers, store_tokens=tokens, store_outputs=outputs, threads=self.threads,
                on_rows=self.on_rows,
            )  # fmt: skip
            parts.append(scores)
            for key, value in stats.items():
                if key.startswith("message/"):
                    self.messages[key.removeprefix("message/")] += int(value)
        return pa.Table.from_batches(parts, scores_schema(scorers, tokens, outputs))


def _asked(
    model: ModelLike,
    names: Sequence[str],
    models: Mapping[Role, ModelLike],
    store: Sequence[Output],
    tokens: bool,
) -> Asked:
    """What is asked for, checked as a recipe is."""
    if isinstance(names, str):
        raise ValueError(f"score: wanted a list of scorers, got a text; write [{names!r}]")
    resolve(names)
    if not names:
        raise ValueError('score: name at least one scorer, such as "loss"; `winnow methods` lists them')
    check_roles(names, models)
    known = [*TOKEN_OUTPUTS, *(name for name in ROW_OUTPUTS if name != "next_logprob")]
    for name in store:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"store: there is no output {name!r}; {hint}There are {', '.join(known)}")
    return Asked(
        tuple(dict.fromkeys(names)),
        _settings(model, "model"),
        {role: _settings(one, f"models.{role}") for role, one in models.items()},
        tuple(dict.fromkeys(store)),
        tokens,
    )


def _settings(model: ModelLike, where: str) -> ModelSettings:
    if isinstance(model, ModelSettings):
        return model
    given = dict(model) if isinstance(model, Mapping) else {"path": model}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    return parse_settings(ModelSettings, plain, where)


def _published(target: pa.Table, compared: pa.Table | None, store: Sequence[Output]) -> pa.Table:
    """The columns of OUT/scores: scores, then what the recipe stores of the model's outputs."""
    names = [name for name in target.column_names if name not in TOKEN_COLUMNS]
    table = target.select(names)
    if compared is not None:
        for name in compared.column_names[1:]:
            table = table.append_column(name, compared[name])
    if store:
        shown = {"input_ids", "response_at", "token_nll", *map(output_column, store)}
        for name in target.column_names:
            if name in shown:
                table = table.append_column(name, target[name])
    return table


@contextmanager
def _bar(wanted: bool | None, total: int) -> Iterator[OnRows | None]:
    """Draws a bar while the block runs, and takes it away."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, force_terminal=wanted or None)
    if not console.is_terminal or wanted is False:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda rows, _tokens: bar.advance(task, rows)
