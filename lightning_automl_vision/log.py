"""What a run says: plain lines on stderr, the same with their time in the run's log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = logging.getLogger("lightning_automl_vision")


@contextmanager
def on_console(*, quiet: bool) -> Iterator[None]:
    """Show log lines on stderr; a quiet run shows its warnings only."""
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    with _handled_by(console):
        yield


@contextmanager
def silent() -> Iterator[None]:
    """Nothing but errors: another process says the same."""
    level = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(level)


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Write log lines to a file, with their time."""
    record = _LogFile(path, encoding="utf-8", delay=True)
    record.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with _handled_by(record):
        try:
            yield
        except BaseException as error:
            # The console's line is written by whoever catches it; the file shall say the same.
            reason = str(error) or type(error).__name__
            record.handle(LOG.makeRecord(LOG.name, logging.ERROR, __file__, 0, reason, (), None))
            raise


class _LogFile(logging.FileHandler):
    """A line that cannot be written, as on a full disk, stands on the console all the same."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    level, propagate = LOG.level, LOG.propagate
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = propagate
        handler.close()
