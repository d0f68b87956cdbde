"""Plants defects among clean rows: duplicates, wrong, mismatched, cut and empty answers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from connectors.examples import message, normalise, prompt_text, response_text
from quickstart.rows import Row

NGRAM = 5  # words in a shingle
NEAR = (0.83, 0.99)  # Jaccard similarity of a near duplicate to its original
COUNTS = {
    "wrong_arithmetic": 50,
    "mismatched_answer": 60,
    "truncated_answer": 30,
    "empty_answer": 8,
    "exact_duplicate": 60,
    "near_duplicate": 60,
}
# Single-turn rows of these files may come again in another file, in another format.
COPIED_TO = {"maths.jsonl": "chat.json", "facts.csv": "assistant.jsonl.gz"}


@dataclass(slots=True)
class Record:
    """A row on its way into a file.

    Attributes:
        row: The conversation, with the defect in it.
        file: Where it will be written.
        planted: Kind of the defect, None for a clean row.
        original: The record that a duplicate repeats.
    """

    row: Row
    file: str
    planted: str | None = None
    original: Record | None = None


def shingles(row: Row) -> frozenset[tuple[str, ...]]:
    """Word 5-grams of prompt and response, normalised; a shorter text is one shingle."""
    words = normalise(f"{prompt_text(row.messages)}\n{response_text(row.messages)}").split()
    return frozenset(tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1)))


def jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Size of the intersection over size of the union, 0 to 1."""
    return len(one & other) / len(one | other)


def with_response(row: Row, response: str) -> Row:
    """The row with another last answer."""
    return replace(row, messages=[*row.messages[:-1], message("assistant", response)])


def plant(records: list[Record], rng: random.Random) -> list[Record]:
    """Changes some records in place, and returns the copies of others, which are to be added.

    No record takes part in two defects: a row that is changed is neither copied nor a donor's answer.
    """
    free = [record for record in records if record.row.kind not in ("rival", "tool")]
    rng.shuffle(free)
    wrong = _take(free, COUNTS["wrong_arithmetic"], lambda r: r.row.wrong_response is not None)
    for record in wrong:
        _change(record, "wrong_arithmetic", record.row.wrong_response or "")
    for record in _take(free, COUNTS["truncated_answer"], lambda r: len(r.row.response.split()) >= 14):
        _change(record, "truncated_answer", cut(record.row.response, rng))
    for record in _take(free, COUNTS["empty_answer"], lambda r: True):
        _change(record, "empty_answer", "")
    _mismatch(free)
    exact = _take(free, COUNTS["exact_duplicate"], lambda r: True)
    near = _take(free, COUNTS["near_duplicate"], lambda r: len(shingles(r.row)) >= 45)
    return [_exact_copy(r, rng) for r in exact] + [_near_copy(r, rng) for r in near]


def _take(free: list[Record], count: int, fits: Callable[[Record], bool]) -> list[Record]:
    """Removes the first `count` fitting records from `free`."""
    taken = [record for record in free if fits(record)][:count]
    if len(taken) < count:
        raise ValueError(f"{count} rows wanted for a defect, {len(taken)} fit")
    chosen = set(map(id, taken))
    free[:] = [record for record in free if id(record) not in chosen]
    return taken


def _change(record: Record, planted: str, response: str) -> None:
    record.row = with_response(record.row, response)
    record.planted = planted


def cut(response: str, rng: random.Random) -> str:
    """The response up to a word boundary in its middle that does not end a sentence or a line."""
    ends = [m.start() for m in re.finditer(r"(?<=[a-z0-9,]) (?=\S)", response)]
    inner = [end for end in ends if 0.3 * len(response) <= end <= 0.8 * len(response)]
    return response[: rng.choice(inner or ends)]


def _mismatch(free: list[Record]) -> None:
    """Passes answers round in rings of rows of one file, so that every answer is a stranger's."""
    files = sorted({record.file for record in free})
    share, rest = divmod(COUNTS["mismatched_answer"], len(files))
    for number, file in enumerate(files):
        ring = _ring([r for r in free if r.file == file], share + (number < rest))
        answers = [record.row.response for record in ring]
        for record, answer in zip(ring, answers[1:] + answers[:1], strict=True):
            _change(record, "mismatched_answer", answer)
        members = set(map(id, ring))
        free[:] = [record for record in free if id(record) not in members]


def _ring(candidates: Sequence[Record], size: int) -> list[Record]:
    """`size` records, each with an answer unlike the next one's, the last one next to the first."""
    ring: list[Record] = []
    for record in candidates:
        closes = len(ring) < size - 1 or _unlike(record, ring[0])
        if closes and (not ring or _unlike(record, ring[-1])):
            ring.append(record)
        if len(ring) == size:
            return ring
    raise ValueError(f"no ring of {size} rows with unlike answers in {candidates[0].file}")


def _unlike(one: Record, other: Record) -> bool:
    # Answers that share many words ("The capital of Ghana ...") may be right for both questions.
    first, second = (set(normalise(record.row.response).split()) for record in (one, other))
    return len(first & second) < 0.25 * len(first | second)


def _exact_copy(record: Record, rng: random.Random) -> Record:
    """The same conversation again: verbatim, in other spacing or case, or in another file's format."""
    file = record.file
    row = record.row
    manner = rng.randrange(3)
    if manner == 1:
        row = with_response(row, row.response.replace(" ", "  ", 2) + "\n")
    elif manner == 2 and file in COPIED_TO:
        file = COPIED_TO[file]
    return Record(row, file, "exact_duplicate", record)


def _near_copy(record: Record, rng: random.Random) -> Record:
    """Almost the same conversation: a word or two before or after it, and typing errors.

    Raises:
        ValueError: If no edit leaves the text similar enough.
    """
    theirs = shingles(record.row)
    for _ in range(50):
        row = _framed(record.row, rng)
        for _ in range(rng.randint(0, 3)):
            row = _with_typing_error(row, rng)
        if NEAR[0] <= jaccard(shingles(row), theirs) <= NEAR[1]:
            return Record(row, record.file, "near_duplicate", record)
    raise ValueError(f"no near duplicate of a row of {record.file}: {record.row.messages[0]['content']}")


def _framed(row: Row, rng: random.Random) -> Row:
    """The row with words at an edge, where they change the fewest shingles."""
    first = row.messages[0]
    if rng.random() < 0.6 or row.kind == "maths":  # a maths answer ends with its number
        opening = rng.choice(("Please help: ", "Hello! ", "Next question. ", "Hi, ", "One more: "))
        return replace(row, messages=[message(first["role"], opening + first["content"]), *row.messages[1:]])
    return with_response(
        row, row.response + rng.choice((" There you go.", " I hope this helps.", " Anything else?"))
    )


def _with_typing_error(row: Row, rng: random.Random) -> Row:
    """The row with two letters of its response exchanged, or the last letter of a word doubled."""
    word = rng.choice(list(re.finditer(r"\b[a-z]{4,}\b", row.response)))
    letters = word[0]
    wrong = rng.choice((letters[0] + letters[2] + letters[1] + letters[3:], letters + letters[-1]))
    return with_response(row, row.response[: word.start()] + wrong + row.response[word.end() :])
