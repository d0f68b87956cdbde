"""Calculations that are written out in a text and do not hold: `12 * 5 = 62`.

Ours; no published method. Of what is written, only sums and products of plain numbers with their result are
read (GSM8K's `<<12*5=60>>` too); units, variables and equations that go on are not. A result counts as right
to the last digit that is written, so `2 / 3 = 0.67` holds, and so does what cannot be evaluated. Direction: 0
is good. Nothing is executed: expressions are parsed, and only + - * / of numbers evaluated.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

MAX_CHARS = 200  # of an equation; a longer one is no calculation that a person wrote

# Possessive, so that of 5,000 never just the 5 is read.
_NUMBER = r"(?:\d++(?:,\d{3})*+(?:\.\d++)?+|\.\d++)%?+"
_GAP = r"\s{0,3}"  # every count has a bound: a hostile text of 100,000 characters would take minutes
_EQUATION = re.compile(
    rf"(?<![\w.,)%])([($]{{0,4}}{_NUMBER}\)?(?:{_GAP}[-+*/x×÷]{_GAP}[($]{{0,4}}{_NUMBER}\){{0,4}}){{1,16}})"
    rf"{_GAP}={_GAP}\$?(-?{_NUMBER})"
    r"(?!\s*[-+*/x×÷(=%\d])"  # else the equation goes on, or the result is 1 1/2
)
_BEGINS_EARLIER = re.compile(r"(?:[-+*/x×÷(]|\d\s|\d\s+and)\s*$")  # or with 1 1/2
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def wrong_calculations(text: str) -> list[str]:
    """The calculations in a text that do not hold, as they are written.

    Example:
        >>> wrong_calculations("She has 3 * 4 = 12 apples, then 12 - 5 = 8.")
        ['12 - 5 = 8']
    """
    return [
        equation[0]
        for equation in _EQUATION.finditer(text)
        if not _BEGINS_EARLIER.search(text, max(0, equation.start() - MAX_CHARS), equation.start())
        and not holds(equation[1], equation[2])
    ]


def holds(expression: str, result: str) -> bool:
    """Whether an expression of + - * / gives a result, to the last digit that is written.

    What cannot be evaluated is taken to hold.

    Example:
        >>> holds("2 / 3", "0.67"), holds("20% * 50", "10"), holds("7 - 2", "4"), holds("1 / 0", "1")
        (True, True, False, True)
    """
    if len(expression) + len(result) > MAX_CHARS:
        return True
    plain = re.sub(r"[$,\s]", "", expression).translate(str.maketrans("x×÷", "**/"))
    plain = re.sub(r"([\d.]+)%", r"(\1/100)", plain)
    try:
        value = _evaluate(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError):
        return True
    stated = result.replace(",", "")
    written = float(stated.rstrip("%"))
    step = 10.0 ** -len(stated.rstrip("%").partition(".")[2])
    readings = (value, 100 * value) if stated.endswith("%") else (value,)
    return any(abs(reading - written) < step for reading in readings)


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError(f"not a sum or product: {ast.dump(node)}")
