"""The training set of a run, or such rows from elsewhere, and the settings of the model that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.manifest import MANIFEST, read_manifest
from pipelines.export.rows import RunOutput, is_masked
from scorers.models.fingerprint import fingerprint
from scorers.models.settings import ModelSettings


def read_training_set(train: str | Path | pa.Table, model: str | None) -> tuple[pa.Table, ModelSettings]:
    """The rows of a training set, and the settings of the model that reads them.

    A run's own `model:` settings count (template, longest row, which turns are trained on), with `model` in
    the place of its model. Its tokens are used only by a model of the same tokenizer and template.

    Raises:
        ValueError: If there are no such rows, no model is named, or rows have token masks or weights made
            with another tokenizer.
    """
    if isinstance(train, pa.Table) or not (Path(train) / MANIFEST).exists():
        if model is None:
            raise ValueError("no model is named, and the training rows do not say which: give --model MODEL")
        return _read_table(train), ModelSettings(path=model)
    manifest = read_manifest(train)
    plain = manifest["recipe"].get("model") or {}
    if model is None and not plain:
        raise ValueError(
            f"{train} was made without a model, so it does not say which to train: give --model MODEL"
        )
    settings = ModelSettings(**{**plain, **({"path": model, "revision": None} if model else {})})
    run = RunOutput.open(train)
    if not run.files or not run.rows:
        raise ValueError(f"{train} kept no row, so there is nothing to train on")
    table = pa.concat_tables(run.tables(("messages", "tools", "input_ids")))
    return own_tokens(table, settings, manifest, train), settings


def own_tokens(
    table: pa.Table, settings: ModelSettings, manifest: dict[str, Any], source: object
) -> pa.Table:
    """The rows of a run without its token ids where the model has another tokenizer or template.

    Raises:
        ValueError: If the ids carry masks or weights, which no other tokenizer can read.
    """
    if "input_ids" not in table.column_names or not manifest.get("models"):
        return table
    made, wanted = manifest["models"][0], fingerprint(settings)
    if all(made.get(name) == wanted[name] for name in ("tokenizer_hash", "template_hash")):
        return table
    if "token_weights" in table.column_names or bool(is_masked(table).any()):
        raise ValueError(
            f"{source} chose tokens with the tokenizer and chat template of {made['name']!r}, and "
            f"{settings.path!r} has others: its masks cannot be applied. Run the recipe with "
            f"`--set model.path={settings.path}`, or choose a selection that prunes no tokens"
        )
    return table.drop_columns(["input_ids", "labels"])


def _read_table(train: str | Path | pa.Table) -> pa.Table:
    """Rows of a table, of a Parquet file, or of all such files of a folder and its train folder."""
    if isinstance(train, pa.Table):
        return train
    place = Path(train)
    found = [place] if place.is_file() else sorted([*place.glob("*.parquet"), *place.glob("train/*.parquet")])
    if not found:
        raise ValueError(
            f"{train}: no run and no Parquet file is there; wanted the output folder of a run, or of "
            "`winnow export --format trl-tokenised`"
        )
    try:
        return pa.concat_tables([pq.read_table(path) for path in found])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{train}: its files cannot be read as Parquet of one schema: {error}") from error
