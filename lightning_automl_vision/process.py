"""What this process may use, and how it is asked to end."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
# What the loader of libraries says of it; a "static TLS block" has a size of its own.
_NOT_LOADED = re.compile(r"failed to map segment|cannot allocate memory(?! in static TLS)", re.IGNORECASE)


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_memory(error: BaseException) -> str | None:
    """The line for an error that says that this process gets no more memory; None for any other."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = most != resource.RLIM_INFINITY
    if not (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, ImportError | OSError) and _NOT_LOADED.search(str(error)))
        or (isinstance(error, SystemError) and limited)  # of libraries that do not say what they lack
    ):
        return None
    reason = " ".join(str(error).split()).rstrip(".")
    limit = f", which may take {most / 1e9:.1f} GB (ulimit -v)" if limited else ""
    way = "Raise that limit" if limited else "End other programs, or go where there is more memory"
    return f"The memory is too small for this process{limit}{f': {reason}' if reason else ''}. {way}."


@contextmanager
def requests_to_end(handler: Handler) -> Iterator[None]:
    """Ctrl-C and a scheduler's request go to the handler meanwhile; only the first thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, usual in previous.items():
            signal.signal(number, usual)
