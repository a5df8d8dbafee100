"""Work in threads a bounded number of steps ahead of the one who needs it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """Apply `work` to each item, in order, with up to `depth` results under way or waiting.

    `items` is drawn from by the caller's thread and only as results are taken, so several of these in a row make a
    pipeline whose memory is bounded.

    Raises:
        Whatever `work` raises, when its result is due; what has not begun by then is cancelled.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
