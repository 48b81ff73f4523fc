"""What takes the place of a picture that can no longer be read, where faults are to be ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_automl_vision.data.sampling import Draw
from lightning_automl_vision.data.unanswered import FEW
from lightning_automl_vision.errors import DataError, LostImagesError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.samples import Pixels

_TOLD = 10
_GRAY = 114
_SIDE = 64


def other_draws(draw: Draw, images: int, seed: Sequence[int]) -> list[Draw]:
    """Other images to take, one after another, until one can be read; the same seed gives the same ones."""
    choice = draw.pool or range(images)
    places = np.random.default_rng((*seed, images)).integers(len(choice), size=FEW)
    return [draw._replace(image=choice[place], later=None) for place in places.tolist()]


def gray_picture() -> Pixels:
    """What an evaluation shows instead, for each image to be judged once."""
    return np.full((_SIDE, _SIDE, 3), _GRAY, dtype=np.uint8)


def read_or_gray(read: Callable[[], Pixels]) -> tuple[Pixels, str]:
    """With why it cannot be read."""
    try:
        return read(), ""
    except DataError as error:
        return gray_picture(), str(error)


def none_left(last: DataError) -> LostImagesError:
    """For a place that no image can be found for."""
    return LostImagesError(f"{FEW + 1} images in a row could not be read; the last one: {last}")


@dataclass
class Judged:
    """How many of the ``images`` of an evaluation have come, and how many of these as gray pictures.

    One that lost more than half of them says nothing of the model, and is an error.
    """

    images: int
    seen: int = 0
    lost: int = 0

    def add(self, images: int, missed: Sequence[str]) -> LostImagesError | None:
        self.seen += images
        self.lost += len(missed)
        if missed and self.lost > self.images / 2:
            return LostImagesError(
                f"{self.lost} of the {self.images} images of an evaluation could not be read, more than half of them;"
                f" the last one: {missed[-1]}"
            )
        if self.lost and self.seen >= self.images:
            LOG.warning(
                "%d of the %d images of this evaluation could not be read and were judged as gray pictures:"
                " its metrics are the lower for it.",
                self.lost,
                self.images,
            )
        return None


def tell(missed: Sequence[str], lost: set[str]) -> None:
    """Each picture once, the first few by name; ``lost`` has all of them."""
    for text in missed:
        if text not in lost:
            lost.add(text)
            if len(lost) <= _TOLD:
                more = " More of them are counted only." if len(lost) == _TOLD else ""
                LOG.warning("%s Training goes on without it, as data.ignore_data_errors says.%s", text, more)
