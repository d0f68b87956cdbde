"""The dataset card of a finished run: README.md as the Hugging Face hub reads it.

The header tells `datasets` which files are the training set, so the folder can be loaded, or uploaded, as
it is. Fields: https://huggingface.co/docs/hub/datasets-cards and .../datasets-manual-configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from connectors.manifest import read_manifest
from connectors.shards import parquet_files, read_schema
from connectors.storage import Place, file_name, join, write_text
from pipelines.report import format_share, read_columns
from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import SCORERS

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
COLUMNS = {
    "id": "unique per input row: source, file, row",
    "source": "name of the input in the recipe",
    "messages": "the conversation; the last message is the response",
    "tools": "JSON of the tool definitions, null if none",
    "group": "hash of the prompt; rival answers to one prompt share it",
    "content_hash": "hash of the whole conversation, the key of exact duplicates",
    "extra": "JSON of every input field that was not used",
    "prompt_tokens": "tokens of the prompt, by the target model's tokenizer",
    "response_tokens": "tokens of the response, by the target model's tokenizer",
    "truncated": "whether the response was cut to fit the model before it was scored",
    "status": "ok, or why a row has no scores",
    "weight": "weight of the row in training",
    "reason": "why the row was kept",
    "quadrant": "Q-Tuning's quadrant on the plane of loss and entropy",
    "q_tuning_level": "level at which Q-Tuning takes the row in; lower is earlier",
    "grape_rank": "rank among the rival answers to one prompt, 1 is the most probable",
    "input_ids": "prompt and response in tokens of the target model's tokenizer",
    "token_weights": "weight of each token in training, 0 where it is not trained on",
    "labels": "input_ids where the row is trained on, -100 elsewhere",
}

_LOAD = """\
from datasets import load_dataset

rows = load_dataset("parquet", data_files="train/*.parquet", split="train")"""
_LOAD_NOTE = (
    "Run it in the folder of this file. From elsewhere, give `load_dataset` the path of the folder, or its "
    "name on the hub, in place of the first two arguments."
)
_FROM_TOKENS = """\
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("parquet", data_files="train/*.parquet", split="train")
trainer = SFTTrainer(
    model={model},
    args=SFTConfig(output_dir="tuned", max_length=None),
    train_dataset=rows.select_columns(["input_ids", "labels"]),
)
trainer.train()"""
_FROM_MESSAGES = """\
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("parquet", data_files="train/*.parquet", split="train")
rows = rows.map(
    lambda row: {{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}},
    remove_columns=["messages"],
).select_columns(["prompt", "completion", "tools"])
trainer = SFTTrainer(model={model}, args=SFTConfig(output_dir="tuned"), train_dataset=rows)
trainer.train()"""


def write_card(out: Place, manifest: Mapping[str, Any] | None = None) -> Place:
    """Writes OUT/README.md.

    Args:
        out: Folder of a run, with train/ and dropped/ complete.
        manifest: The run's manifest, for a run that has yet to write it; read from OUT when None.

    Returns:
        Path of the card.

    Raises:
        ValueError: If there is no manifest.
    """
    manifest = read_manifest(out) if manifest is None else manifest
    files = parquet_files(join(out, "train"))
    schema = read_schema(files[0]) if files else pa.schema([])
    sections = [
        _header(out, manifest),
        f"# {_inline(manifest.get('name') or file_name(out))}",
        _summary(manifest),
        _counts(manifest["counts"]),
        _sources(out),
        f"## Load it\n\n{_fenced(_LOAD, 'python')}\n\n{_LOAD_NOTE}",
        _training(manifest, schema),
        _columns(schema),
        _methods(manifest.get("recipe", {})),
        "## Recipe\n\nThe same inputs, recipe and seed give the same files again.",
        _fenced(
            yaml.safe_dump(manifest.get("recipe", {}), sort_keys=False, allow_unicode=True).rstrip(), "yaml"
        ),
        _limits(manifest),
    ]
    path = join(out, "README.md")
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def _header(out: str | Path, manifest: Mapping[str, Any]) -> str:
    kept = manifest["counts"]["kept"]
    # A configuration without files makes `datasets` refuse the whole folder.
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}]}
        for name, folder in (("default", "train"), ("dropped", "dropped"))
        if parquet_files(join(str(out), folder))
    ]
    header = {
        "pretty_name": " ".join(str(manifest.get("name") or file_name(out)).split()),
        "task_categories": ["text-generation"],
        "tags": ["winnow", "instruction-tuning", "data-selection"],
        "size_categories": [next((name for limit, name in SIZES if kept < limit), "1B<n<10B")],
        "configs": configs,
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def _summary(manifest: Mapping[str, Any]) -> str:
    counts, models = manifest["counts"], manifest.get("models", [])
    target = f" for {_inline(models[0].get('name', 'the target model'))}" if models else ""
    tokens = manifest.get("tokens", {}).get("kept")
    return (
        f"{counts['kept']:,} of {counts['read']:,} rows ({format_share(counts['kept'], counts['read'])}"
        f"{f', {tokens:,} tokens' if tokens else ''}), selected{target} by winnow "
        f"{_inline(manifest.get('winnow_version', ''))}. Why each row was kept is in its column `reason`; "
        "why the others were dropped is in `dropped/` and `bad_rows/`, with pictures in `report.html`."
    )


def _counts(counts: Mapping[str, Any]) -> str:
    duplicates = counts.get("duplicates", {})
    rows = [("read", counts["read"]), ("could not be read", counts["bad"])]
    rows += [(f"{kind} duplicates", number) for kind, number in duplicates.items()]
    rows.append(("found in an evaluation set", counts.get("contaminated", 0)))
    named = sum(duplicates.values()) + counts.get("contaminated", 0)
    rows += [("dropped for another reason", counts["dropped"] - named), ("kept", counts["kept"])]
    return "## Counts\n\n" + _table(("rows", "number"), [(label, f"{number:,}") for label, number in rows])


def _sources(out: str | Path) -> str:
    column = pa.schema([("source", pa.dictionary(pa.int32(), pa.string()))])
    kept, dropped = (
        _rows_per_source(read_columns(join(str(out), name), column)) for name in ("train", "dropped")
    )
    lines = [
        (_inline(source), f"{kept.get(source, 0):,}", f"{dropped.get(source, 0):,}")
        for source in sorted(kept.keys() | dropped.keys(), key=lambda name: (-kept.get(name, 0), name))
    ]
    return "## Sources\n\n" + _table(("source", "kept", "dropped"), lines)


def _rows_per_source(table: pa.Table) -> dict[str, int]:
    return {
        str(pair["values"]): pair["counts"]
        for pair in pc.value_counts(table["source"].combine_chunks()).to_pylist()
    }


def _training(manifest: Mapping[str, Any], schema: pa.Schema) -> str:
    models = manifest.get("models", [])
    model = repr(str(models[0].get("name"))) if models else '"path/of/your/model"'
    if "labels" in schema.names:
        text = (
            "`input_ids` is the whole conversation in tokens of the target model, chat template included. "
            "`labels` repeats it where the row is trained on and is -100 elsewhere: on the prompt, and on "
            "response tokens that the selection pruned. Both hold for this model only; for another one use "
            "`messages`."
        )
        snippet = _FROM_TOKENS
    else:
        text = "The loss falls on the last message, the response, which is also what was scored."
        snippet = _FROM_MESSAGES
    return f"With TRL:\n\n{_fenced(snippet.format(model=model), 'python')}\n\n{text}"


def _columns(schema: pa.Schema) -> str:
    docs = COLUMNS | {column.name: column.doc for scorer in SCORERS.values() for column in scorer.columns}
    lines = [(f"`{_inline(f.name)}`", _type_name(f.type), _inline(docs.get(f.name, ""))) for f in schema]
    return "## Columns\n\n" + (_table(("column", "type", "meaning"), lines) if lines else "No row was kept.")


def _type_name(kind: pa.DataType) -> str:
    return (
        "list of messages"
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
        else _inline(kind)
    )


def _methods(recipe: Mapping[str, Any]) -> str:
    return "## Methods\n\n" + (
        "\n".join(f"- {line}" for line in _method_lines(recipe)) or "None: every row was kept."
    )


def _method_lines(recipe: Mapping[str, Any]) -> Iterator[str]:
    if recipe.get("decontaminate"):
        against = recipe["decontaminate"]["against"]
        names = ", ".join(_inline(item["name"] or item["path"]) for item in against)
        yield (
            f"evaluation sets ({names}): rows with {recipe['decontaminate']['ngram']} words in sequence "
            "or their whole prompt with an item (Brown et al. 2020, "
            "[arXiv:2005.14165](https://arxiv.org/abs/2005.14165), appendix C)"
        )
    dedupe = recipe.get("dedupe") or {}
    if dedupe.get("exact"):
        yield "exact duplicates: equal hash of the normalised conversation"
    if dedupe.get("minhash"):
        yield (
            "near duplicates: MinHash (Broder 1997, "
            "[doi 10.1109/SEQUEN.1997.666900](https://doi.org/10.1109/SEQUEN.1997.666900)), "
            "candidates verified by their true Jaccard similarity"
        )
    semantic = dedupe.get("semantic")
    if semantic:
        yield (
            "semantic duplicates: SemDeDup ([arXiv:2303.09540](https://arxiv.org/abs/2303.09540)) over "
            f"embeddings by {_inline(semantic['model']['path'])}"
        )
        if semantic.get("d4"):
            yield "diversification: D4 ([arXiv:2308.12284](https://arxiv.org/abs/2308.12284))"
    for name in recipe.get("score") or ():
        source = SCORERS[name].source if name in SCORERS else "no source on record"
        yield f"score `{_inline(name)}`: {_cited(source)}"
    for step in recipe.get("select") or ():
        for name in step:
            source = SELECTORS[name].source if name in SELECTORS else "no source on record"
            yield f"selection `{_inline(name)}`: {_cited(source)}"


def _cited(source: str) -> str:
    """A source with links to its papers."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", _inline(source))


def _limits(manifest: Mapping[str, Any]) -> str:
    lines = [
        "Selection is not correction: a kept row can still be wrong; nothing here checks facts or safety.",
        "The licences of the sources apply to their rows; this card grants none.",
        "Shares of sources, languages and topics are those that the selection left, not those of the input.",
    ]
    if manifest.get("models"):
        lines.insert(
            0, "Scores and choice hold for the model named above; for another model, score and select again."
        )
    if not manifest["counts"].get("contaminated"):
        lines.append(
            "No row was dropped for being in an evaluation set; "
            "if the recipe names no such check, none was made."
        )
    if manifest.get("limit"):
        lines.append(f"Only the first {manifest['limit']:,} rows of each input were read.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _inline(text: object) -> str:
    """Text from the data or a recipe as one line of Markdown that marks up nothing and breaks no table."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
