"""Compilation of the inner loops over bytes and hashes to machine code, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles a function at its first call and keeps the machine code on disk for the next process.

    It runs without Python's lock, so that other threads can read files meanwhile.

    Where Numba finds no folder to write to (a read-only container without a home), every process compiles
    anew, which takes a few seconds.
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(Function, numba.njit(nogil=True)(function))
