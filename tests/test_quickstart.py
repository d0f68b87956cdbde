"""The sample corpus, its answer key, the small model, and the count of found defects."""

from __future__ import annotations

import csv
import gzip
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connectors.chat_formats import parse_row
from connectors.examples import BadRow, Conversation, conversation_hash, message
from quickstart import found, make_corpus, measure_model
from quickstart.planting import jaccard, plant, shingles
from quickstart.rows import Row
from quickstart.train_model import held_out
from tests.draws import draws

QUICKSTART = Path(make_corpus.__file__).parent
DATA, MODEL = QUICKSTART / "data", QUICKSTART / "model"
KEY: list[dict[str, Any]] = json.loads((DATA / "planted.json").read_text("utf-8"))
MISMATCHED = "mismatched_answer"
DUPLICATES = ("exact_duplicate", "near_duplicate")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

Place = tuple[str, int]


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def fields_by_place() -> Iterator[tuple[Place, dict[str, Any] | None]]:
    """Every row of the committed files; None for a malformed line."""
    for path in sorted(DATA.iterdir()):
        if path.name == "planted.json":
            continue
        if path.suffix == ".csv":
            rows: list[dict[str, Any] | None] = list(csv.DictReader(path.read_text("utf-8").splitlines(True)))
        elif path.suffix == ".json":
            rows = json.loads(path.read_text("utf-8"))
        else:
            rows = [parsed(line) for line in content(path).split(b"\n")[:-1]]
        yield from (((path.name, number), row) for number, row in enumerate(rows, 1))


def read(fields: dict[str, Any]) -> Conversation | None:
    try:
        (conversation,) = parse_row({name: value for name, value in fields.items() if name != "planted"})
    except BadRow:
        return None
    return conversation if isinstance(conversation, Conversation) else None


@pytest.fixture(scope="module")
def fields() -> dict[Place, dict[str, Any] | None]:
    return dict(fields_by_place())


@pytest.fixture(scope="module")
def conversations(fields: dict[Place, dict[str, Any] | None]) -> dict[Place, Conversation]:
    return {place: c for place, row in fields.items() if row is not None and (c := read(row))}


def places(*kinds: str) -> set[Place]:
    return {(entry["file"], entry["row"]) for entry in KEY if entry["kind"] in kinds}


def has_wrong_equation(text: str) -> bool:
    equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (-?\d+)", text)
    return any(OPERATIONS[sign](int(x), int(y)) != int(result) for x, sign, y, result in equations)


def test_corpus_is_generated_byte_for_byte(tmp_path: Path) -> None:
    make_corpus.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in DATA.iterdir()}
    for path in tmp_path.iterdir():
        # Compressed bytes depend on the zlib that Python was built with; what is in them does not.
        assert content(path) == content(DATA / path.name), path.name


def test_another_seed_gives_another_corpus() -> None:
    assert make_corpus.clean_rows(1) != make_corpus.clean_rows(0)


def test_every_label_is_in_the_key_and_every_key_entry_is_labelled(
    fields: dict[Place, dict[str, Any] | None],
) -> None:
    labelled = {place: row["planted"] for place, row in fields.items() if row and row.get("planted")}
    in_key = {(e["file"], e["row"]): e["kind"] for e in KEY if e["kind"] != "malformed"}
    assert labelled == in_key
    assert {place for place, row in fields.items() if row is None} == places("malformed")


def test_a_fifth_is_planted_and_few_rows_are_unreadable(fields: dict[Place, dict[str, Any] | None]) -> None:
    assert 0.15 <= len(KEY) / len(fields) <= 0.20
    assert len(places("malformed", "empty_answer")) / len(fields) < 0.02


def test_all_rows_but_malformed_and_empty_ones_are_read(
    fields: dict[Place, dict[str, Any] | None], conversations: dict[Place, Conversation]
) -> None:
    assert fields.keys() - conversations.keys() == places("malformed", "empty_answer")


def test_readers_give_back_the_conversations_that_were_generated(
    conversations: dict[Place, Conversation],
) -> None:
    for file, records in make_corpus.build().items():
        generated = [r.row.messages for r in records if r.planted != "empty_answer"]
        assert [c.messages for (name, _), c in conversations.items() if name == file] == generated, file


def test_exact_duplicates_have_the_hash_of_their_original(conversations: dict[Place, Conversation]) -> None:
    hashes = {place: conversation_hash(c.messages, c.tools) for place, c in conversations.items()}
    pairs = [e for e in KEY if e["kind"] == "exact_duplicate"]
    for entry in pairs:
        original = entry["original"]["file"], entry["original"]["row"]
        assert hashes[entry["file"], entry["row"]] == hashes[original]
    assert len(hashes) - len(set(hashes.values())) == len(pairs)


def test_planted_near_duplicates_are_the_only_ones(conversations: dict[Place, Conversation]) -> None:
    texts = {place: shingles(Row(c.messages, "")) for place, c in conversations.items()}
    holders: dict[tuple[str, ...], list[Place]] = {}
    similar: set[frozenset[Place]] = set()
    for place, own in texts.items():
        others = {other for shingle in own for other in holders.get(shingle, [])}
        similar |= {frozenset((place, other)) for other in others if jaccard(own, texts[other]) >= 0.8}
        for shingle in own:
            holders.setdefault(shingle, []).append(place)
    planted = {
        frozenset(((e["file"], e["row"]), (e["original"]["file"], e["original"]["row"])))
        for e in KEY
        if e["kind"] in DUPLICATES
    }
    assert similar == planted


def test_arithmetic_is_wrong_where_planted_and_nowhere_else(
    conversations: dict[Place, Conversation],
) -> None:
    wrong = {
        place
        for place, c in conversations.items()
        if any(has_wrong_equation(t["content"]) for t in c.messages)
    }
    planted = places("wrong_arithmetic")
    assert wrong <= planted
    # A wrong sum without an equation (the total of a conversion) cannot be checked this way.
    assert len(wrong) >= 0.9 * len(planted)


def test_truncated_answers_stop_in_the_middle_of_a_sentence(
    conversations: dict[Place, Conversation],
) -> None:
    for place in places("truncated_answer"):
        assert re.search(r"[\w,]$", conversations[place].messages[-1]["content"]), place


def test_mismatched_answers_are_answers_of_other_mismatched_rows() -> None:
    rng = random.Random(0)  # noqa: S311 - the same each time, no secret
    records = make_corpus.clean_records(rng)
    right = [record.row.response for record in records]
    plant(records, rng)
    swapped = [
        (old, r.row.response) for old, r in zip(right, records, strict=True) if r.planted == MISMATCHED
    ]
    assert len(swapped) == len(places(MISMATCHED))
    assert all(old != new for old, new in swapped)
    assert sorted(old for old, _ in swapped) == sorted(new for _, new in swapped)


def test_rival_answers_come_in_groups_of_four(conversations: dict[Place, Conversation]) -> None:
    prompts = Counter(
        c.messages[0]["content"] for (file, _), c in conversations.items() if file == "rivals.jsonl"
    )
    assert set(prompts.values()) == {4}


def test_model_is_small_and_holds_only_safetensors() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    weights = {path.suffix for path in files} - {".json", ".jinja", ".md"}
    assert weights == {".safetensors"}


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Any, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a model this small, more threads wait for each other
    yield measure_model.load(MODEL)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out_losses(loaded: tuple[Any, Any]) -> list[measure_model.Losses]:
    rows = [row for row in make_corpus.clean_rows() if held_out(row.messages)][:60]
    return [x for row in rows if (x := measure_model.losses(*loaded, row))]


def test_real_answers_are_likelier_than_shuffled_ones(held_out_losses: list[measure_model.Losses]) -> None:
    assert measure_model.share(x.conditional < x.shuffled for x in held_out_losses) >= 0.9


def test_the_prompt_helps_with_most_good_answers(held_out_losses: list[measure_model.Losses]) -> None:
    assert measure_model.share(x.conditional < x.direct for x in held_out_losses) > 0.8


@given(prompt=st.text(max_size=30), response=st.text(max_size=30))
@draws(50)
def test_a_prompt_is_a_token_prefix_of_prompt_and_response(
    loaded: tuple[Any, Any], prompt: str, response: str
) -> None:
    _, tokenizer = loaded
    turns = [message("user", prompt), message("assistant", response)]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    before = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    assert whole[: len(before)] == before


def write_run(out: Path, kept: list[str], dropped: list[tuple[str, str]], bad: list[tuple[str, int]]) -> None:
    tables = {
        "train": pa.table({"id": kept}),
        "dropped": pa.table({"id": [i for i, _ in dropped], "stage": [s for _, s in dropped]}),
        "bad_rows": pa.table({"path": [p for p, _ in bad], "row": [r for _, r in bad]}),
    }
    for name, table in tables.items():
        (out / name).mkdir(parents=True)
        pq.write_table(table, out / name / "part-0.parquet")


def test_found_counts_each_kind_by_its_own_rule(tmp_path: Path) -> None:
    ids = [f"maths/maths.jsonl:{row:08d}" for row in range(1, 11)]
    place = [{"file": "maths.jsonl", "row": row} for row in range(1, 11)]
    key = [
        {"kind": "exact_duplicate", **place[0], "original": place[1]},  # the original goes: found
        {"kind": "near_duplicate", **place[2], "original": place[3]},  # dropped by another stage: not found
        {"kind": "malformed", "file": "maths.jsonl", "row": 11},
        {"kind": "empty_answer", **place[4]},  # kept: not found
        {"kind": "wrong_arithmetic", **place[5]},
    ]
    write_run(
        tmp_path,
        kept=[ids[0], ids[3], ids[4], *ids[7:]],
        dropped=[(ids[1], "dedupe"), (ids[2], "select"), (ids[5], "select"), (ids[6], "select")],
        bad=[("data/maths.jsonl", 11)],
    )
    counts = {name: (total, hits) for name, total, hits in found.count_found(key, tmp_path)}
    assert counts == {
        "exact_duplicate": (1, 1),
        "near_duplicate": (1, 0),
        "malformed": (1, 1),
        "empty_answer": (1, 0),
        "mismatched_answer": (0, 0),
        "wrong_arithmetic": (1, 1),
        "truncated_answer": (0, 0),
        "clean rows dropped": (4, 1),
    }


def test_found_prints_an_aligned_table() -> None:
    lines = found.table([("exact_duplicate", 60, 57), ("clean rows dropped", 1000, 250)]).splitlines()
    assert {len(line) for line in lines} == {44}
    assert lines[1].split() == ["exact", "duplicate", "60", "57", "95%"]


def test_found_counts_what_is_planted_among_the_suspects(tmp_path: Path) -> None:
    key = [{"kind": "wrong_arithmetic", "file": "maths.jsonl", "row": row} for row in (2, 5)]
    assert found.suspects_text(key, tmp_path) == ""
    (tmp_path / "suspects").mkdir()
    ids = [f"maths/maths.jsonl:{row:08d}" for row in (5, 1, 2)]
    pq.write_table(pa.table({"id": ids}), tmp_path / "suspects" / "suspects.parquet")
    said = found.suspects_text(key, tmp_path, first=2)
    assert said == "Suspect answers listed: 3, 2 of them planted; of the first 2, 1."
