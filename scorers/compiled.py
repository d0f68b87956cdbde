"""Compilation of inner loops to machine code, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles a function at its first call and keeps the machine code on disk for the next process.

    It runs without Python's lock, so that other threads can work meanwhile.

    Where Numba finds no folder to write to (a read-only container without a home), every process compiles
    anew, which takes a few seconds.
    """
    return _compiled(function)


def compiled_with(*fastmath: str) -> Callable[[Function], Function]:
    """As `compiled`, with liberties in its own arithmetic, not in that of functions it calls.

    Args:
        fastmath: LLVM's names: "reassoc", sums in any order, which processors do several at a time;
            "contract", a product and a sum rounded once; "nsz", the sign of zero is of no account.
    """
    return lambda function: _compiled(function, fastmath=set(fastmath))


def _compiled(function: Function, **options: Any) -> Function:  # noqa: ANN401 - Numba's options
    # A division by zero gives infinity or NaN, as in numpy, and needs no check for an exception.
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return cast(Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:
        return cast(Function, numba.njit(**options)(function))
