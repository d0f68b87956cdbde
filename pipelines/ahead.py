"""Work on the next items while the caller works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`work` of each item, in order, in threads; few items and results are in memory at a time.

    Args:
        work: Called in threads, so of use where it is mostly outside of Python's lock.
        items: Taken one by one, in the caller's thread.
        threads: How many items are worked on while the caller works on a result.

    Example:
        >>> list(ahead(str.upper, "abc", 2))
        ['A', 'B', 'C']
    """
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
