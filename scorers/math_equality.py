r"""Whether two mathematical answers have the same value.

Equal texts are equal. Two numbers are compared by value, where thousands commas, currency and units do not
count, a decimal counts to 6 places, and 50% is 50 and also 0.5. Words that differ are wrong when neither side
holds a digit. Everything else is asked of math-verify (https://github.com/huggingface/math-verify), of
its LaTeX reader only: the one for plain expressions ends in eval.

math-verify runs in a process of its own. Its time limits are signals, which only a main thread can set, and a
hostile expression (9^{9^{9^9}}) would hang or fill any process it runs in. That process has 5 seconds and 2
GiB for a comparison, and is ended when it needs more. Ours, except for math-verify, whose 6 places we share.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from fractions import Fraction

from connectors.examples import normalise

SECONDS_TO_START = 120.0  # a cold file system and a busy machine
SECONDS_TO_COMPARE = 5.0
DECIMAL_PLACES = 6
BYTES_TO_COMPARE = 2 << 30

_NUMERAL = re.compile(
    r"([-+]?)\s*(?:((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)|(?:(\d+)\s+)?(\d+)\s*/\s*(\d+))"
    # A unit; 3xy and 3 x have none.
    r"\s*%?(?:\s*(?:[cmk]m|k?g|m[gl]|lbs?|ft|am|pm|mph)|(?:\s+[A-Za-z]{3,})+)?"
)
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_PLAIN_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]*)\}")
# Words after a number that change its value, and so are no units.
_NO_UNITS = re.compile(
    r"\b(?:hundred|thousand|[mbtr]+illion|dozen|hal(?:f|ve)|third|quarter|(?:four|fif|six|seven|eigh|nin|ten)th"
    r"|squared|cubed|factorial|times|plus|minus|over|and|sqrt)s?\b",
    re.IGNORECASE,
)
# A unit behind a value in LaTeX.
_UNIT = re.compile(r"(?<=[\d}])\s*\\(?:text|mathrm|mbox)\{([^{}\d]*)\}(?:\^\{?[23]\}?)?$")
_FUNCTIONS = re.compile(
    r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+"
    r"|\b(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|mod|gcd|lcm|min|max|det|deg)\b"
)
_WORD = re.compile(r"[A-Za-z]{3,}")


def same_value(answer: str, gold: str) -> bool | None:
    r"""Whether an answer has the value of the gold answer; None when that cannot be said.

    Args:
        answer: A number, an expression in LaTeX, or words, without delimiters such as `$`.
        gold: The same of the gold answer.

    Raises:
        ModuleNotFoundError: If math-verify is needed and not installed.

    Example:
        >>> same_value("1,000", "1000"), same_value("18 dollars", "17"), same_value("eighteen", "18")
        (True, False, None)
    """
    answer_text, gold_text = (normalise(_PLAIN_TEXT.sub(r"\1", text)) for text in (answer, gold))
    if answer_text == gold_text:
        return True
    answer, gold = _without_unit(answer), _without_unit(gold)
    one, other = _number(answer), _number(gold)
    if one is not None and other is not None:
        return _equal_numbers(one, other, answer, gold)
    if holds_words(answer) or holds_words(gold):
        both = holds_words(answer) and holds_words(gold)
        return False if both and not re.search(r"\d", answer + gold) else None
    return _comparer(os.getpid()).equal(answer, gold)


def _equal_numbers(one: Fraction, other: Fraction, answer: str, gold: str) -> bool:
    """Whether two numbers are equal, given how they are written."""
    places = DECIMAL_PLACES if "." in answer + gold else None
    shares = [one / 100 if "%" in answer else one, other / 100 if "%" in gold else other]
    return any(
        a == b if places is None else round(a, places) == round(b, places) for a, b in ((one, other), shares)
    )


def _without_unit(text: str) -> str:
    r"""A value in LaTeX without a unit in `\text{}` behind it."""
    unit = _UNIT.search(text)
    return text[: unit.start()] if unit and not _NO_UNITS.search(unit[1]) else text


def holds_words(text: str) -> bool:
    """Whether a text holds words, other than names of functions and LaTeX commands."""
    return bool(_WORD.search(_FUNCTIONS.sub(" ", _PLAIN_TEXT.sub(r" \1 ", text))))


def _number(text: str) -> Fraction | None:
    """The number that a text is, without currency, per cent sign and unit; None for anything else."""
    plain = _FRACTION.sub(r" \1/\2", _PLAIN_TEXT.sub(r" \1", text))
    plain = re.sub(r"\\[,;! %$]", lambda match: match[0][1:].strip(",;! "), plain).replace("$", "")
    match = _NUMERAL.fullmatch(plain.strip())
    if match is None or _NO_UNITS.search(plain):
        return None
    sign, decimal, whole, over, under = match.group(1, 2, 3, 4, 5)
    if decimal:
        value = Fraction(decimal.replace(",", ""))
    elif under and int(under):
        value = int(whole or 0) + Fraction(int(over), int(under))
    else:
        return None
    return -value if sign == "-" else value


class _Comparer:
    """A process that compares expressions with math-verify, started when needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Beam runs several threads
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, answer: str, gold: str) -> bool | None:
        """Whether two LaTeX expressions are equal; None if one cannot be read or it takes too long."""
        require_math_verify()
        with self._lock:
            process = self._process or self._start()
            line = json.dumps([answer, gold]).encode() + b"\n"
            try:
                assert process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
                process.stdin.write(line)
                reply = _read_line(process, SECONDS_TO_COMPARE)
            except BrokenPipeError:
                reply = None
            if reply is None:
                self._end()
                return None
            verdict: bool | None = json.loads(reply)
            return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-P", "-c", "from scorers.math_equality import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )
        if _read_line(self._process, SECONDS_TO_START) is None:
            self._end()
            raise RuntimeError(
                "the process that compares mathematical answers did not start; "
                f"see what `{sys.executable} -c 'import math_verify'` says"
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()


@functools.cache
def _comparer(process_id: int) -> _Comparer:
    """The comparer of this process; a forked one must not share the pipes of its parent."""
    comparer = _Comparer()
    atexit.register(comparer.close)
    return comparer


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """A line of a process's output; None if it ends or takes longer."""
    assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
    until = time.monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                return None
            line += part
    return line


def require_math_verify() -> None:
    """Raises ModuleNotFoundError, saying what to install, if math-verify is not there."""
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError(
            'answers of kind "math" are compared with math-verify, which is not installed: '
            'pip install "winnow[math]"'
        )


def serve() -> None:
    """What the comparing process does: a JSON list [answer, gold] per line in, true, false or null out."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (BYTES_TO_COMPARE, BYTES_TO_COMPARE))
    importlib.import_module("math_verify")
    logging.disable()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    replies.write("ready\n")
    for line in sys.stdin:
        replies.write(json.dumps(_verify(*json.loads(line))) + "\n")


def _verify(answer: str, gold: str) -> bool | None:
    library = importlib.import_module("math_verify")
    latex = [library.LatexExtractionConfig()]
    try:
        # No time limits of its own: they are signals, and the other process keeps the time.
        parsed = [
            library.parse(f"${' '.join(text.replace('$', '').split())}$", latex, "no_fallback",
                          parsing_timeout=None, raise_on_error=True)
            for text in (gold, answer)
        ]  # fmt: skip
        if not all(parsed):
            return None
        return bool(library.verify(*parsed, timeout_seconds=None, raise_on_error=True))
    except Exception:  # noqa: BLE001 - sympy fails in any way on strange expressions: then nothing can be said
        return None
