"""What takes the place of a picture that can no longer be read, where faults are to be ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lightning_automl_vision.data.sampling import Draw
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.samples import Pixels

_TRIES = 20
_TOLD = 10
_GRAY = 114
_SIDE = 64


def other_draws(draw: Draw, images: int, seed: Sequence[int]) -> list[Draw]:
    """Other images to take, one after another, until one can be read; the same seed gives the same ones."""
    choice = draw.pool or range(images)
    places = np.random.default_rng((*seed, images)).integers(len(choice), size=_TRIES)
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


def tell(missed: Sequence[str], lost: set[str]) -> None:
    """Each picture once, the first few by name; ``lost`` has all of them."""
    for text in missed:
        if text not in lost:
            lost.add(text)
            if len(lost) <= _TOLD:
                more = " More of them are counted only." if len(lost) == _TOLD else ""
                LOG.warning("%s Training goes on without it, as data.ignore_data_errors says.%s", text, more)
