"""What may not be read, for root too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read whatever there is."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@contextmanager
def open_place() -> Iterator[Path]:
    """A folder of its own that nobody may look into as well."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
