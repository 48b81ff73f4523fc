"""A table at the bottom of the terminal that is drawn anew in place, while what is said scrolls by above it."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO

from lightning_automl_vision.log import LOG
from lightning_automl_vision.search.board_table import cells_of, cut

Lines = Callable[[int, int], Sequence[str]]
"""What is to be seen in so many columns and at most so many lines."""
EVERY = 2.0  # seconds between two drawings of what changes by itself
_UP, _CLEAR = "\x1b[{}F", "\x1b[J"  # to the beginning of a line above; from there to the end of the screen


class LiveTable:
    """Several threads may draw; what is drawn by one is whole."""

    def __init__(self, terminal: TextIO, lines: Lines) -> None:
        self._terminal, self._lines = terminal, lines
        self._lock = threading.RLock()
        self._drawn: list[str] = []
        self._above = _Above(self)
        self._closed = threading.Event()

    def draw(self) -> None:
        """What there is now, in the place of what was drawn before; a terminal that is gone is no fault."""
        with suppress(OSError, ValueError):
            self._put("")

    def say(self, text: str) -> None:
        """Whole lines above the table."""
        self._put(text)

    @contextmanager
    def shown(self, every: float) -> Iterator[None]:
        """Whatever goes to stderr meanwhile stands above the table, which is wiped at the end."""
        handlers = _writing_to(self._terminal)
        thread = threading.Thread(target=self._redraw, args=(every,), name="live table", daemon=True)
        for handler in handlers:
            handler.setStream(self._above)
        try:
            with redirect_stderr(self._above):
                thread.start()
                yield
        finally:
            self._closed.set()
            thread.join()
            for handler in handlers:
                handler.setStream(self._terminal)
            self._wipe()

    def _redraw(self, every: float) -> None:
        self.draw()
        while not self._closed.wait(every):
            self.draw()

    def _put(self, text: str) -> None:
        with self._lock:
            columns, height = _size(self._terminal)
            wiped = self._wiping(columns)
            # The last column stays free: some terminals begin a new line when it is reached.
            lines = [] if self._closed.is_set() else self._lines(columns - 1, height - 1)
            self._drawn = [cut(line, columns - 1) for line in lines[: height - 1]]
            self._terminal.write("".join([wiped, text, *(f"{line}\n" for line in self._drawn)]))
            self._terminal.flush()

    def _wipe(self) -> None:
        with suppress(OSError, ValueError):
            self._put(self._above.rest())

    def _wiping(self, columns: int) -> str:
        """A terminal that has become narrower shows what was drawn on more lines."""
        height = sum(max(-(-cells_of(line) // max(columns, 1)), 1) for line in self._drawn)
        return f"{_UP.format(height)}{_CLEAR}" if height else ""


class _Above(io.TextIOBase):
    """Text for the lines above a table, passed on line by line."""

    def __init__(self, table: LiveTable) -> None:
        super().__init__()
        self._table, self._unfinished = table, ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._table._terminal.fileno()

    def write(self, text: str) -> int:
        with self._lock:
            whole, newline, self._unfinished = (self._unfinished + text).rpartition("\n")
        if newline:
            self._table.say(whole + newline)
        return len(text)

    def rest(self) -> str:
        """The line that nobody finished."""
        with self._lock:
            rest, self._unfinished = self._unfinished, ""
        return f"{rest}\n" if rest else ""


def _size(terminal: TextIO) -> tuple[int, int]:
    """Of one that does not know its own, what terminals have been since there are terminals."""
    columns, lines = os.get_terminal_size(terminal.fileno())
    return columns or 80, lines or 24


def _writing_to(terminal: TextIO) -> list[logging.StreamHandler[Any]]:
    streams = [handler for handler in LOG.handlers if isinstance(handler, logging.StreamHandler)]
    return [handler for handler in streams if handler.stream is terminal]


def can_be_drawn_on(stream: TextIO) -> bool:
    """Whether it is a terminal that can go back to an earlier line."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


@contextmanager
def live_table(lines: Lines, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Gives what draws the table anew; nothing is drawn where stderr is no terminal, or nothing shall be said."""
    terminal = sys.stderr
    if quiet or not can_be_drawn_on(terminal):
        yield lambda: None
        return
    table = LiveTable(terminal, lines)
    with table.shown(EVERY):
        yield table.draw
