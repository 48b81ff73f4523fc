"""Pictures are read in threads while the model works on those before: decoding lets other threads run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.process import usable_cores

_MOST_THREADS = 8

Place = TypeVar("Place")
Content = TypeVar("Content")


def read_ahead(
    read: Callable[[Place], Content], places: Iterable[Place], *, ahead: int = 0, threads: int | None = None
) -> Iterator[Content | DataError]:
    """What ``read`` gives for each place, in order; where it cannot be read, the error that says why.

    At least ``ahead`` places are read before they are asked for.
    """
    threads = threads or min(usable_cores(), _MOST_THREADS)
    waiting: deque[Future[Content | DataError]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for place in places:
                waiting.append(pool.submit(_content_or_error, read, place))
                if len(waiting) > max(2 * threads, ahead):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _content_or_error(read: Callable[[Place], Content], place: Place) -> Content | DataError:
    try:
        return read(place)
    except DataError as error:
        return error
