"""How many pictures may be missing before training because their servers do not answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lightning_automl_vision.data.urls import without_query
from lightning_automl_vision.errors import UnreachableError

# Those that may be missing one after another where faults are to be ignored, before training and in it.
FEW = 20


@dataclass
class Unanswered:
    """Those of the ``images`` of a data set that servers do not answer for before training.

    To ``ignore`` are single ones, as in training: not as many from a server that gives nothing, nor more than half.
    """

    images: int
    ignore: bool
    _heard: set[str] = field(default_factory=set, init=False)
    _missing: Counter[str] = field(default_factory=Counter, init=False)

    def heard(self, url: str) -> None:
        """Its server has said something of it."""
        self._heard.add(urlsplit(url).netloc)

    def add(self, url: str, fault: str) -> None:
        """UnreachableError where no more of them can be missing."""
        server = urlsplit(url).netloc
        self._missing[server] += 1
        name, missing = f"{without_query(url)}: {fault}.", self._missing.total()
        if not self.ignore:
            raise UnreachableError(
                f"{name} Repeat the command once its server answers. data.ignore_data_errors=true goes on without"
                " single images."
            )
        is_silent = server not in self._heard and self._missing[server] > FEW
        if is_silent or missing > self.images / 2:
            raise UnreachableError(
                f"{name} That is {missing} of {self.images} images without an answer, too many to go on without them."
                " Repeat the command once their server answers, or leave them out of the labels."
            )
