"""A JSON list read element by element: what is left of it when it is damaged, or too big to read at once.

After an element that is not JSON, reading goes on at the next line that starts as that element did, or with
an object at the same place. Text in JSON holds no raw line break, so such a line is never inside a string,
and nested lines are indented deeper.
Where elements do not start their own lines, the rest of the list becomes one bad row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from connectors.examples import EXCERPT_CHARS, BadRow
from connectors.lines import UnreadableRow
from connectors.turns import LENIENT, check_unicode

MAX_ELEMENT_CHARS = 64 * 1024 * 1024
_MARGIN_CHARS = 256  # kept before the place of reading, to see how an element's line starts
_CUT_CHARS = 12  # a cut inside `false` or an escape shows up to this far before the end of the file


_BLANKS = re.compile(r"[ \t\r\n]*")


class ListElements:
    """Iterates over the elements of a JSON list: a value, or a BadRow in place of an element.

    Args:
        chunks: The text in pieces; bytes that are not UTF-8 decoded with `surrogateescape`.
    """

    def __init__(self, chunks: Iterable[str]) -> None:
        self._chunks = iter(chunks)
        self._text = ""
        self._at = 0

    def __iter__(self) -> Iterator[object]:
        """Yields each element in order; the last item is a BadRow if the list does not end as it should."""
        if self._next_char() != "[":
            yield self._bad("not JSON", "the file should hold a list and does not start with '['")
            return
        self._at += 1
        while self._next_char() not in ("]", ""):
            item = self._element()
            yield item
            if isinstance(item, BadRow) and item.reason in _LAST:
                return
        if not self._next_char():
            yield self._bad(
                "truncated JSON list", "the file ends inside the list; the elements before are kept"
            )
            return
        self._at += 1
        if self._next_char():
            yield self._bad("text after the JSON list", "the rest of the file is not read")

    def _element(self) -> object:
        """The element that starts here, or what is wrong with it; moves on to the next one."""
        start = self._line_start() + self._text[self._at]
        excerpt = self._text[self._at : self._at + EXCERPT_CHARS]
        try:
            value, raw = self._decode()
        except RecursionError:
            problem, cut = BadRow("nested too deeply"), False
        except json.JSONDecodeError as error:
            problem = BadRow("not JSON", f"{error.msg}, at character {error.pos - self._at} of the element")
            cut = self._is_cut(error)
        else:
            if self._next_char() == ",":  # a missing comma costs nothing: the next element is read as it is
                self._at += 1
            return _checked(value, raw)
        if not self._skip_to(start):
            problem = _unread(problem, cut, len(self._text) - self._at)
        return UnreadableRow(problem.reason, problem.detail, _storable(excerpt))

    def _decode(self) -> tuple[object, str]:
        """The value that starts here and its text; the place of reading moves behind it."""
        while True:
            failure: json.JSONDecodeError | None = None
            end = 0
            try:
                value, end = LENIENT.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                failure = error
            # at the end of what has been read so far a number may go on, and anything else may be cut
            unfinished = self._is_cut(failure) if failure else end == len(self._text)
            if not unfinished or len(self._text) - self._at > MAX_ELEMENT_CHARS or not self._more():
                break
        if failure:
            raise failure
        raw, self._at = self._text[self._at : end], end
        return value, raw

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether an element may only seem wrong because the text ends inside it."""
        return "Unterminated" in error.msg or error.pos >= len(self._text) - _CUT_CHARS

    def _line_start(self) -> str:
        """The line break and indent before the element that starts here, "" if other text is before it."""
        before = self._text[max(0, self._at - _MARGIN_CHARS) : self._at]
        stripped = before.rstrip(" \t")
        return before[len(stripped) - 1 :] if stripped.endswith("\n") else ""

    def _skip_to(self, start: str) -> bool:
        """Moves on to the next line that starts like `start`, or an object there; whether one is near."""
        like = re.compile(f"{re.escape(start[:-1])}[{{{re.escape(start[-1])}]")
        while start[0] == "\n":
            if found := like.search(self._text, self._at + 1):
                self._at = found.end() - 1
                return True
            if len(self._text) - self._at > MAX_ELEMENT_CHARS or not self._more():
                break
        return False

    def _next_char(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # always matches
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads on, forgetting what is done; whether there was more.

        As much again as is held, so that a long element is not looked at once for every piece of it.
        """
        held = len(self._text) - self._at
        pieces: list[str] = []
        while (not pieces or sum(map(len, pieces)) < held) and (chunk := next(self._chunks, "")):
            pieces.append(chunk)
        if pieces:
            done = max(0, self._at - _MARGIN_CHARS)
            self._text, self._at = "".join([self._text[done:], *pieces]), self._at - done
        return bool(pieces)

    def _bad(self, reason: str, detail: str) -> UnreadableRow:
        return UnreadableRow(reason, detail, _storable(self._text[self._at : self._at + EXCERPT_CHARS]))


_LAST = ("truncated JSON list", "malformed JSON list")  # nothing can be read after these


def _unread(problem: BadRow, cut: bool, rest: int) -> BadRow:
    if cut:
        return BadRow("truncated JSON list", "the file ends inside an element; the elements before are kept")
    return BadRow("malformed JSON list", f"{problem}; the rest of the file, {rest:,} characters, is not read")


def _checked(value: object, raw: str) -> object:
    """The value, or a BadRow if it holds what UTF-8 cannot store."""
    try:
        raw.encode()
        check_unicode(value)
    except UnicodeEncodeError:
        return UnreadableRow("invalid UTF-8", "the element holds bytes that are not UTF-8", _storable(raw))
    except BadRow as bad:
        return UnreadableRow(bad.reason, bad.detail, _storable(raw))
    return value


def _storable(text: str) -> str:
    return text[:EXCERPT_CHARS].encode("utf-8", "replace").decode()
