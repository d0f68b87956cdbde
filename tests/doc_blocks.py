"""Blocks of code and commands in the pages of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "quickstart" / "README.md")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_BEFORE = {"taskset": 3, "srun": 1}  # words before a command that are no part of it
_NUMBER = r"(?<![\w.])(?!0\d)\d[\d,]*(?:\.\d+)?(?!\w)"  # not a part of an id, which has leading zeros
_PARTS = re.compile(rf"(\.\.\.|{_NUMBER})")
_FENCE = re.compile(r"^( *)```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page that has it.
        line: Number of its first line, from 1.
        language: What the fence says, "" for nothing.
        text: What is between the fences.
        not_run: Why it is not run, as the comment before it says; "" for a block that is.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def name(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text("utf-8").splitlines()
    start, language, before = 0, "", ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start:
            if fence and not fence[2]:
                text = "".join(f"{inner}\n" for inner in lines[start:number])
                yield Block(page, start + 1, language, text, before)
                start, before = 0, ""
        elif fence:
            start, language = number + 1, fence[2]
        elif line.strip():
            marked = NOT_RUN.fullmatch(line.strip())
            before = marked[1] if marked else ""


@dataclass(frozen=True)
class Command:
    """A command line of a page, with what it is to print where that is shown."""

    page: Path
    line: int
    words: tuple[str, ...]
    shown: str | None = None

    @property
    def name(self) -> str:
        """Page, line and command."""
        return f"{self.page.relative_to(ROOT)}:{self.line}: {' '.join(self.words)[:60]}"


def commands_of(page: Path) -> Iterator[Command]:
    """Command lines that are indented as code, and those of console blocks after "$ "."""
    lines = page.read_text("utf-8").splitlines()
    fenced, number = False, 0
    while number < len(lines):
        line, first = lines[number], number + 1
        fenced ^= bool(_FENCE.match(line))
        number += 1
        if fenced or not line.startswith("    "):
            continue
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number]
            number += 1
        words = _words(line)
        while words and words[0] in _BEFORE:
            words = words[_BEFORE[words[0]] :]
        if words and re.fullmatch(r"(\S*/)?(winnow|python|pip|make)", words[0]):
            yield Command(page, first, words)
    for block in blocks_of(page):
        if block.language == "console":
            yield from _console(block)


def _words(line: str) -> tuple[str, ...]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose or code with a quote of its own
        return ()
    ends = [at for at, word in enumerate(words) if re.fullmatch(r"[12]?>|&&?|\||<", word)]
    return tuple(words[: min(ends, default=len(words))])


def _console(block: Block) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield Command(block.page, block.line, _words(command), shown)


def agrees(shown: str, printed: str) -> bool:
    r"""Whether what was printed is what a page shows, where `...` stands for anything.

    Blanks count as one. Numbers may differ by 3 in a hundred, counts by 3: another kind of processor rounds
    the last bits of scores otherwise, and a row or two is then decided otherwise.

    Example:
        >>> agrees("kept  818\n... s", "kept 816\nin 9 s\n"), agrees("818 kept", "708 kept")
        (True, False)
        >>> agrees("a:00000026", "a:00000027")
        False
    """
    wanted, got = (" ".join(text.split()) for text in (shown, printed))
    parts = _PARTS.split(wanted)
    pattern = "".join(
        ".*?" if part == "..." else f"({_NUMBER})" if re.fullmatch(_NUMBER, part) else re.escape(part)
        for part in parts
    )
    match = re.fullmatch(pattern, got)
    numbers = [part for part in parts if re.fullmatch(_NUMBER, part)]
    return match is not None and all(map(_close, numbers, match.groups()))


def _close(shown: str, printed: str) -> bool:
    one, other = (float(text.replace(",", "")) for text in (shown, printed))
    return abs(one - other) <= max(0.03 * abs(one), 0.02 if "." in shown else 3)
