"""What a run says: plain lines on stderr, the same with their time in the run's log file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = logging.getLogger("lightning_automl_vision")


@contextmanager
def logging_to(file: Path, *, quiet: bool) -> Iterator[None]:
    """Send log lines to the file and, unless quiet, to stderr; warnings are always shown."""
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    record = logging.FileHandler(file, encoding="utf-8", delay=True)
    record.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    LOG.handlers = [console, record]
    try:
        yield
    finally:
        LOG.handlers = []
        record.close()
