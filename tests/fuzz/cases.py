"""Input files and recipes as no one writes them: good ones, damaged by chance.

Everything is drawn from one `random.Random`, so a case is its seed, and hypothesis can draw it too.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import zstandard

MAX_BYTES = 200_000  # of a case; what only size brings out has tests of its own
_TEXTS = (
    "q", "What is 2+2?", "", " ", "\n", "é", "\u0000", "\ufeff", "\u2028", "'", '"', "a,b", "=1+1",
    "<|im_end|>",
    "Human: hi\n\nAssistant: ho", "[1, 2]", '[{"role": "user"}]', "{", "\U0001f600", "x" * 3000, "null", "-0",
)  # fmt: skip
_NAMES = (
    "question", "answer", "instruction", "input", "output", "messages", "conversations", "role", "content",
    "from",
    "value", "chosen", "rejected", "prompt", "response", "history", "system", "tools", "tool_calls", "turns",
    "reference", "instances", "text", "message_tree_id", "replies", "output_1", "output_2", "label", "name",
    "id",
    "function", "arguments", "type", "user", "bot", "", " Question", "a\u0000b",
)  # fmt: skip
_ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation", "x", "")
_RAW_VALUES = (
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"0.1e-400", b"-", b"00", b"1e", b"tru",
    b'"\\ud800"',
    b'"\\udc00\\ud800"', b'"\\u12"', b'"\\x"', b'"\x00"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b"9" * 400,
    b"{}", b"[]",
)  # fmt: skip
_SPLICES = (
    b"\x00", b"\xff", b"\r", b"\r\n", b"\n", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe", b",", b'"', b"\\", b"{",
    b"}",
    b"[", b"]", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"\x80\x04",
    b"\xed\xa0\x80", b"\xc0\x80", b"\t", b";", b"PK\x03\x04", b" " * 100, b"\x7f\xff\xff\xff",
    b"\xe2\x80\xa8",
)  # fmt: skip


@dataclass(frozen=True)
class FileCase:
    """A file to read.

    Attributes:
        name: Its name; the ending need not fit.
        content: Its bytes.
        rows: How many rows it holds, where that is known; None once it is damaged.
        format: The format the recipe states.
    """

    name: str
    content: bytes
    rows: int | None
    format: str


def file_case(random: Random) -> FileCase:
    """A file of some kind, three times out of four damaged in one to four places."""
    kind = random.choice(tuple(_WRITERS))
    rows = [_row(random) for _ in range(random.randint(0, 6))]
    try:
        content = _WRITERS[kind](rows, random)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # rows that this kind cannot hold
        kind, content = "jsonl", _as_jsonl(rows, random)
    known: int | None = len(rows)
    packed = random.choice(("", "", "", ".gz", ".zst"))
    if random.random() < 0.75:
        known = None
        content = damaged(content, random)
    if packed:
        content = gzip.compress(content, 1, mtime=0) if packed == ".gz" else _ZSTD.compress(content)
        if random.random() < 0.3:
            known = None
            content = damaged(content, random)
    ending = kind if random.random() < 0.85 else random.choice(tuple(_WRITERS))
    formats = ("auto",) * 12 + ("messages", "sharegpt", "alpaca", "preference", "openassistant", "mt_bench")
    return FileCase(f"x.{ending}{packed}", content[:MAX_BYTES], known, random.choice(formats))


_ZSTD = zstandard.ZstdCompressor(level=1)


def damaged(content: bytes, random: Random) -> bytes:
    """The bytes with one to four faults."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(_FAULTS)(content, random)
    return content


def _row(random: Random) -> dict[str, Any]:
    make = random.choice((_pair, _chat, _anything))
    return make(random)


def _pair(random: Random) -> dict[str, Any]:
    names = random.choice((("question", "answer"), ("instruction", "output"), ("prompt", "response")))
    return {names[0]: _text(random) or "q", names[1]: _text(random) or "a"}


def _chat(random: Random) -> dict[str, Any]:
    role, content = random.choice((("role", "content"), ("from", "value")))
    turns: list[Any] = [
        {role: random.choice(_ROLES), content: random.choice((_text, _value))(random)}
        for _ in range(random.randint(0, 4))
    ]
    if random.random() < 0.5:
        turns = [{role: "user", content: "q"}, {role: "assistant", content: _text(random)}]
    if turns and random.random() < 0.2:
        turns[-1][random.choice(("tool_calls", "function_call", "name"))] = _value(random)
    return {"messages" if role == "role" else "conversations": turns, "tools": _value(random)}


def _anything(random: Random) -> dict[str, Any]:
    return {random.choice(_NAMES): _value(random) for _ in range(random.randint(0, 6))}


def _text(random: Random) -> str:
    return random.choice(_TEXTS) + (random.choice(_TEXTS) if random.random() < 0.3 else "")


def _value(random: Random, depth: int = 3) -> Any:  # noqa: ANN401 - any JSON value
    kind = random.randint(0, 9 if depth else 5)
    if kind <= 2:
        return _text(random)
    if kind == 3:
        return random.choice((0, 1, -1, 2**53, 2**63 - 1, 0.5, -0.0, 1e300))
    if kind <= 5:
        return random.choice((None, True, False))
    size = random.randint(0, 3)
    if kind <= 7:
        return [_value(random, depth - 1) for _ in range(size)]
    return {random.choice(_NAMES): _value(random, depth - 1) for _ in range(size)}


def _as_jsonl(rows: list[dict[str, Any]], random: Random) -> bytes:
    end = random.choice(("\n", "\n", "\r\n", "\n\n"))
    text = end.join(json.dumps(row, ensure_ascii=random.random() < 0.3) for row in rows)
    return text.encode() + random.choice((b"", end.encode()))


def _as_json(rows: list[dict[str, Any]], random: Random) -> bytes:
    shape: Any = random.choice((rows, rows, rows, {"data": rows}))
    return json.dumps(shape, ensure_ascii=False, indent=random.choice((None, 1))).encode()


def _as_csv(rows: list[dict[str, Any]], random: Random, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["question", "answer"]
    writer = csv.DictWriter(text, names, delimiter=delimiter, lineterminator=random.choice(("\n", "\r\n")))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows) if rows else pa.table({"question": pa.array([], pa.string())})


def _as_parquet(rows: list[dict[str, Any]], random: Random) -> bytes:
    sink = io.BytesIO()
    packing = random.choice(("none", "snappy", "zstd", "gzip"))
    pq.write_table(_table(rows), sink, row_group_size=random.randint(1, 4), compression=packing)
    return sink.getvalue()


def _as_feather(rows: list[dict[str, Any]], random: Random) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(_table(rows), sink, compression=random.choice(("uncompressed", "lz4", "zstd")))
    return sink.getvalue()


def _as_stream(rows: list[dict[str, Any]], random: Random) -> bytes:
    sink, table = io.BytesIO(), _table(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=random.randint(1, 4))
    return sink.getvalue()


def _as_tsv(rows: list[dict[str, Any]], random: Random) -> bytes:
    return _as_csv(rows, random, "\t")


_WRITERS: dict[str, Callable[[list[dict[str, Any]], Random], bytes]] = {
    "jsonl": _as_jsonl,
    "json": _as_json,
    "csv": _as_csv,
    "tsv": _as_tsv,
    "parquet": _as_parquet,
    "feather": _as_feather,
    "arrow": _as_stream,
}


def _place(content: bytes, random: Random) -> int:
    """Anywhere; often near the end, where footers are."""
    if random.random() < 0.3:
        return max(0, len(content) - random.randint(0, 64))
    return random.randint(0, len(content))


def _flip(content: bytes, random: Random) -> bytes:
    if not content:
        return content
    at = min(_place(content, random), len(content) - 1)
    return content[:at] + bytes([content[at] ^ (1 << random.randint(0, 7))]) + content[at + 1 :]


def _overwrite(content: bytes, random: Random) -> bytes:
    at, new = _place(content, random), random.choice(_SPLICES)
    return content[:at] + new + content[at + len(new) :]


def _insert(content: bytes, random: Random) -> bytes:
    at = _place(content, random)
    return content[:at] + random.choice(_SPLICES) + content[at:]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def _drop(content: bytes, random: Random) -> bytes:
    at = _place(content, random)
    return content[:at] + content[at + random.randint(1, 20) :]


def _repeat(content: bytes, random: Random) -> bytes:
    at, to = sorted((_place(content, random), _place(content, random)))
    return content[:to] + content[at:to] * random.randint(1, 3) + content[to:]


def _odd_value(content: bytes, random: Random) -> bytes:
    """A value of a JSON row replaced by one that JSON does not have, or hardly."""
    at = content.find(b": ", _place(content, random))
    end = content.find(b",", at)
    if at < 0 or end < 0:
        return content
    return content[: at + 2] + random.choice(_RAW_VALUES) + content[end:]


def _deep(content: bytes, random: Random) -> bytes:
    at = content.find(b": ", _place(content, random)) + 2
    depth = random.choice((10, 100, 900, 1000, 1023, 1024, 2000, 20_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = random.choice((b"1", b"", b'"a"'))
    return (
        content[:at] + opening * depth + inner + closing * depth + b"," * random.randint(0, 1) + content[at:]
    )


def _long(content: bytes, random: Random) -> bytes:
    at = _place(content, random)
    return (
        content[:at]
        + random.choice((b"a", b" ", b"\n", b"\x00", b"\xff", b'"', b",")) * 20_000
        + content[at:]
    )


def _other_text(content: bytes, random: Random) -> bytes:
    """The whole text in another encoding, where it is text."""
    try:
        return content.decode().encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1")), "replace")
    except UnicodeDecodeError:
        return content


def _swap(content: bytes, random: Random) -> bytes:
    at, to = sorted((_place(content, random), _place(content, random)))
    return content[to:] + content[at:to] + content[:at]


_FAULTS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _flip, _overwrite, _insert, _insert, _cut, _drop, _repeat, _odd_value, _odd_value, _deep,
    _long,
    _other_text, _swap,
)  # fmt: skip


_RECIPE = """\
name: fuzz
seed: 0
inputs:
  - {path: data/*.jsonl, source: a, fields: {prompt: p, response: r}}
  - {path: b.csv, format: alpaca}
model: {path: m, dtype: float32, max_tokens: 128, on_overflow: drop}
dedupe:
  exact: true
  minhash: {threshold: 0.8, ngram: 5}
score: [loss, ifd]
select:
  - q_tuning: {keep: 0.5, token_keep: 0.7}
  - top_k: {column: loss, keep: 10}
emit: {tokens: auto}
output: out
"""
_YAML_SPLICES = (
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!int ''", "!!int 'x'",
    "!!bool x",
    "!!float ''", "!!timestamp x", "!!binary 'é'", "!!set {a, b}", "!!omap [a: 1]", "2001-99-99",
    "2001-01-01",
    "1" * 5000, ".nan", ".inf", "-.inf", "1e999", "0x", "0b2", "1:99:99", "~", "[]", "{}", "[{}]", "''",
    "<<: *a",
    "&a [*a]", "&a {b: *a}", "*a", "? [1, 2] : 3", "? {a: b} : c", "1: 2", "null: 1", "true: false", "|\n  x",
    '"\\ud800"', '"\\0"', '"\\x"', "[" * 300, "{a: " * 300, "- " * 300, "\t", "\u0000", "\ufeff", "\u2028",
    "%",
    "---", "...", "@", "`", "#", ": ", "- ", "\n", "  ", "'", '"', "!", "&", "*", "select", "keep", "1.5",
    "-1",
    "models: {reference: {path: x}}", "check: {gold: x}", "embed: {path: x}", "store: [rank]", "seed: 1e400",
)  # fmt: skip


@lru_cache(maxsize=1)
def _laughs() -> str:
    """Nine levels of nine aliases each: a thousand million values in a few lines."""
    levels = ["l0: &l0 lol"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join([*levels, _RECIPE.replace("[loss, ifd]", "*l9")])


def recipe_case(random: Random) -> str:
    """The text of a recipe with one to five faults."""
    text = _laughs() if random.random() < 0.02 else _RECIPE
    for _ in range(random.randint(1, 5)):
        at = random.randint(0, len(text))
        if random.random() < 0.6:  # in place of a value
            at = max(text.find(":", at), text.find(",", at)) + 1
        end = at + random.choice((0, 0, 1, 3, 10, 40))
        text = text[:at] + random.choice((" ", "")) + random.choice(_YAML_SPLICES) + text[end:]
    return text
