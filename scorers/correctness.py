r"""Correctness: whether a response's final answer is the gold answer.

`answer_of` reads the final answer out of a response, `same_answer` compares it with the gold one. None always
means that nothing can be said: no answer could be read, or the two cannot be compared. It is never a guess.

- `math`: after `####` (GSM8K), else in the last `\boxed{}`, else where an answer is stated ("the
  answer is ..."), else the last number. Compared by scorers/math_equality.py: numbers by value, the rest by
  math-verify.
- `exact`: the stated answer, or a response of a single line as a whole. Case, Unicode form (NFC), white
  space, outer punctuation and one leading article (a, an, the) do not count; everything else does.
- `choice`: a letter from A to E, as stated ("the answer is (B)", "Option B is correct", boxed, `####`; the
  last statement wins), else a response or last line that is a letter or begins with one ("B) Paris"). Two
  letters in one statement, or a letter that may be the article, are not read.

Ours: no published method; the forms are those that models and data sets write.
"""

from __future__ import annotations

import re
from typing import Literal

from connectors.examples import normalise
from scorers.math_equality import holds_words, same_value

Kind = Literal["math", "exact", "choice"]

MAX_ANSWER_CHARS = 500  # a longer "answer" is none


def is_correct(response: str, gold: str, kind: Kind) -> bool | None:
    r"""Whether the final answer of a response is the gold answer; None when nothing can be said.

    Args:
        response: The whole response.
        gold: The right answer, alone or at the end of a solution ("... #### 42", "... \boxed{42}").
        kind: How answers are read and compared.

    Raises:
        ModuleNotFoundError: If math-verify is needed and not installed.

    Example:
        >>> is_correct("He has 40 + 2 = 42. #### 42", "42.0", "math")
        True
        >>> is_correct("The answer is (B).", "C", "choice")
        False
        >>> is_correct("I do not know.", "42", "math") is None
        True
    """
    answer = answer_of(response, kind)
    return None if answer is None else same_answer(answer, gold, kind)


def answer_of(text: str, kind: Kind) -> str | None:
    """The final answer in a text, None when there is none.

    Example:
        >>> answer_of("She makes 9 * 2 = $18.", "math")
        '18'
        >>> answer_of("Both are cities, so the answer is B.", "choice")
        'B'
        >>> answer_of("The answer is the Seine.", "exact")
        'the Seine'
    """
    answer = _READERS[kind](text.replace("\N{MINUS SIGN}", "-"))
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


def same_answer(answer: str, gold: str, kind: Kind) -> bool | None:
    r"""Whether a final answer is the gold answer; None when the two cannot be compared.

    Args:
        answer: What `answer_of` gave.
        gold: The right answer, alone or at the end of a solution.
        kind: How to compare.

    Raises:
        ModuleNotFoundError: If math-verify is needed and not installed.

    Example:
        >>> same_answer("$1,000", "1000", "math")
        True
    """
    wanted = gold_answer(gold, kind)
    if wanted is None:
        return None
    if kind == "math":
        return same_value(answer, wanted)
    if kind == "exact":
        return _bare(answer) == _bare(wanted)
    return answer == wanted


def gold_answer(gold: str, kind: Kind) -> str | None:
    """The answer in a gold text: what is marked or stated in it, else all of it; None when there is none.

    Example:
        >>> gold_answer("9 * 2 = 18. #### 18", "math"), gold_answer("3/4", "math"), gold_answer("b", "choice")
        ('18', '3/4', 'B')
    """
    gold = gold.strip().replace("\N{MINUS SIGN}", "-")
    if kind == "choice":
        letter = _LETTER_ALONE.fullmatch(gold) or _LETTER_FIRST.match(gold)
        return letter[1].upper() if letter else _choice(gold)
    answer = _marked(gold) or _stated(gold) or gold
    answer = _tidy(answer) if kind == "math" else answer
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


# Reading an answer

_STATED = re.compile(
    r"(?:\banswer\b[^\n.:=]{0,60}?(?:\bis\b|\bare\b|\bbe\b|[:=])|^[^\w\n]*A:)[\s:*]*+",
    re.IGNORECASE | re.MULTILINE,
)
# A full stop ends a sentence after a digit or a longer word, so that "St. Louis" stays whole.
_SENTENCE_END = re.compile(r"(?:(?<=\w\w\w)|(?<=[\d)\]}$%*]))[.!?](?=[\s*]|$)|\n")
_FORMULA = re.compile(r"\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_WRAPPED = re.compile(r"\$+([^$]+)\$+|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_OUTER = " \t\r\n\"'“”‘’.,;:!?*`()$"
_NUMBER = re.compile(
    r"(?<![\w.)])-?\$?(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++|(?=\.\d))(?:\.\d++)?(?!(?:st|nd|rd|th)\b)"
    r"(?:\s?/\s?\d++|\s\d++/\d++|(?::\d++)+)?%?"
)


def _math(text: str) -> str | None:
    marked = _tidy(_marked(text) or "")
    if marked:
        return marked
    stated = _stated(text)
    value = _value_in(stated) if stated else None
    if value:
        return value
    numbers = _NUMBER.findall(text)
    return _tidy(numbers[-1]) if numbers else None


def _marked(text: str) -> str | None:
    r"""What follows the last `####` on its line, else what is in the last `\boxed{}`.

    In the midst of a text `####` may begin a heading, so there only a number counts.
    """
    line, _, rest = text.rpartition("####")[2].partition("\n") if "####" in text else ("", "", "")
    after = _tidy(_boxed(line) or line)
    return after if after and (not rest.strip() or _NUMBER.fullmatch(after)) else _boxed(text)


def _boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for end in range(start, min(len(text), start + MAX_ANSWER_CHARS)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[start:end]
    return None  # cut short


def _stated(text: str) -> str | None:
    """The sentence after the last "the answer is", "Answer:" or the like."""
    statements = list(_STATED.finditer(text))
    if not statements:
        return None
    start = statements[-1].end()
    found = _SENTENCE_END.search(text, start)
    end = found.start() if found else len(text)
    return text[start:end].strip() if end - start <= MAX_ANSWER_CHARS else None


def _value_in(sentence: str) -> str | None:
    """The one formula or number of a sentence; None when it has several or none."""
    sentence = sentence.rpartition("=")[2] if "=" in sentence and "$" not in sentence else sentence
    formulas = _FORMULA.findall(sentence)
    if len(formulas) == 1:
        return _tidy("".join(formulas[0]))
    numbers = _NUMBER.findall(sentence)
    if len(numbers) == 1 and "\\" not in sentence:
        return _tidy(numbers[0])
    return _tidy(sentence) if sentence and not holds_words(sentence) else None


def _tidy(answer: str) -> str:
    """An answer without what only surrounds it: white space, dollars, stars, a full stop."""
    answer = answer.strip().strip("*`").strip()
    answer = re.sub(r"(?<!\.)[.,]$", "", answer).rstrip()
    wrapped = _WRAPPED.fullmatch(answer)
    answer = "".join(part or "" for part in wrapped.groups()) if wrapped else answer
    return re.sub(r"^(-?)\\?\$", r"\1", answer.strip())


def _exact(text: str) -> str | None:
    found = _marked(text) or _stated(text)
    if found:
        return found
    lines = text.strip().splitlines()
    return lines[0].strip() if len(lines) == 1 else None


def _bare(text: str) -> str:
    """What counts of a text: not its case, white space, outer punctuation or leading article."""
    return re.sub(r"^(?:a|an|the) ", "", normalise(text.strip(_OUTER)))


# A letter as it is written where an answer is stated. A capital A before a small letter may be the article,
# and a small letter counts only where nothing follows it.
_LETTER = (
    r"(?:(?:option|choice)\s++)?[\s(\[*_$\"'{]*+(?:\\(?:text|mathrm|mathbf|textbf)\{)?[\s(*]*+"
    r"(?:([B-E])(?![\w'’-]|\.g)|(A)(?![\w'’-])(?! (?!because|since|as|and|or)[a-z])"
    r"|([a-e])(?=\s*[)\]*}.,:;$\"']|\s*$))"
)
_SECOND_LETTER = re.compile(r"[\s)\]*_$}\"']*(?:,|/|&|\band\b|\bor\b)[\s(\[*]*(?:[B-E]\b|A\b(?! [a-z]))")
_CHOICES = re.compile(
    r"(?i:\b(?:answer|choice|option)\b[^\n.:=]{0,60}?(?:\bis\b|[:=])|^[^\w\n]*A:|\\boxed\{"
    rf"|####(?=[^\w\n#]{{0,20}}[A-E][^\w\n#]{{0,20}}$))[\s:*]*+(?i:\bis\b)?\s*+{_LETTER}",
    re.MULTILINE,
)
_CHOSEN = re.compile(
    r"(?i:\b(?:option|choice)\s+)[(*]*([A-Ea-e])[)*]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
_LETTER_ALONE = re.compile(r"[\s(\[*_\"'$]*([A-Ea-e])[\s)\].:*_\"'$]*")
_LETTER_FIRST = re.compile(r"[\s(\[*_]*([A-E])[\s*_]*[)\].:](?=\s|\*|$)")


def _choice(text: str) -> str | None:
    statements = sorted([*_CHOICES.finditer(text), *_CHOSEN.finditer(text)], key=lambda match: match.start())
    if statements:
        last = statements[-1]
        letter: str = next(group for group in last.groups() if group)
        return None if _SECOND_LETTER.match(text, last.end()) else letter.upper()
    lines = text.strip().splitlines()
    for line in (lines[-1], lines[0]) if lines else ():
        alone = _LETTER_ALONE.fullmatch(line) or _LETTER_FIRST.match(line)
        if alone:
            return alone[1].upper()
    return None


_READERS = {"math": _math, "exact": _exact, "choice": _choice}
