"""The evaluations of a training that is still running, read from the file that it appends to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NAN = float("nan")
Report = tuple[int, float]


class Reports:
    """Whole lines only, each once, and none that was there before; a file that takes another's place is read anew."""

    def __init__(self, path: Path, metric: str) -> None:
        self._path, self._metric = path, metric
        # Held open, so that no other file can get its inode while it matters.
        self._file: BinaryIO | None = self._open()
        self._read = os.fstat(self._file.fileno()).st_size if self._file is not None else 0

    def new(self) -> list[Report]:
        """(epoch, value) of each evaluation since the last time; an undefined value is NaN."""
        found = list(self._rest())
        if self._was_replaced():
            self.close()
            self._file, self._read = self._open(), 0
            found += self._rest()
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _was_replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or there.st_ino != os.fstat(self._file.fileno()).st_ino

    def _rest(self) -> Iterator[Report]:
        if self._file is None:
            return
        self._file.seek(self._read)
        whole, newline, _ = self._file.read().rpartition(b"\n")  # what follows is written at this moment
        self._read += len(whole + newline)
        for line in whole.splitlines():
            report = _report(line, self._metric)
            if report is not None:
                yield report


def _report(line: bytes, metric: str) -> Report | None:
    """None for what a crash tore."""
    try:
        values = json.loads(line)
        value = values.get(metric)
        return int(values["epoch"]), NAN if value is None else float(value)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
