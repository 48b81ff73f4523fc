"""What a reader says of one image before anything is checked, and what happens to faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import DataConfig


class Missing:
    """Stands for a value that the label file does not give."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


class Row(NamedTuple):
    """One image and its label in the form a JSONL line has, with where it was said.

    ``base`` is the folder that a relative ``image`` starts from. With ``pixels``, coordinates are pixels of the
    displayed picture. ``size`` is what the label file claims; with ``raster`` the labels were traced from a picture of
    that size. ``places`` names the origin of each object where it is not the row's own line.
    """

    image: Any
    label: Any
    file: str
    line: int
    base: str
    group: Any = None
    places: Sequence[str] = ()
    pixels: bool = False
    size: tuple[int, int] | None = None
    raster: bool = False

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class Faults:
    """Raises the first fault, or with ``ignore`` counts what is dropped by its reason."""

    ignore: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, place: str, text: str, way_out: str = "Correct it") -> None:
        if not self.ignore:
            raise DataError(f"{place}: {text}. {way_out}, or drop and count such with data.ignore_data_errors=true.")
        LOG.debug("Dropped: %s: %s", place, text)
        self.dropped[reason] += 1

    def note(self, text: str) -> None:
        """Count something unusual that was understood all the same."""
        self.notes[text] += 1


@dataclass(frozen=True)
class Source:
    """What a reader is asked to read; ``role`` is training, validation or test."""

    path: str
    task: str
    config: DataConfig
    faults: Faults
    role: str = "training"

    @property
    def key(self) -> str | None:
        """The JSONL key or CSV column that groups images, where ``data.group_by`` is not a pattern."""
        group = self.config.group_by
        return None if group is None or is_pattern(group) else group


def is_pattern(group_by: str) -> bool:
    return "(" in group_by


def shown(value: object, longest: int = 60) -> str:
    """The value for a message, in one line."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
