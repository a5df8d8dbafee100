"""Work in threads, a bounded number of steps ahead of the consumer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """Apply `work` to each item, in order, with up to `depth` results in progress or waiting.

    `items` is consumed in the caller's thread and only as results are taken, so a chain of these is a pipeline with
    bounded memory.

    Raises:
        Any exception of `work`, when its result is due; tasks that have not begun are cancelled.
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
