"""Names written into a picture: on filled tags, within the picture, and clear of each other where there is room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.drawing.colours import Colour, text_colour_on
from lightning_automl_vision.drawing.lettering import SMALLEST, capital_height, font_for, font_size, shortened
from lightning_automl_vision.samples import FloatArray, Pixels

_MOST_HIDDEN = 0.4
"""A tag that would hide this share of another tag, or much of an object, is left out."""

_SPARED = 0.2
"""This share of an object may be hidden without regret: the rest of it is seen."""

_MOST_COVERED = 0.25
"""Of the picture; further tags are left out."""


class Tag(NamedTuple):
    """What is to be written beside the box of an object, best above the place ``peak`` of its upper edge."""

    text: str
    colour: Colour
    box: FloatArray
    peak: float


def write_tags(pixels: Pixels, tags: Sequence[Tag]) -> Pixels:
    """The first tags take the best places; one that finds none is left out."""
    if not tags:
        return pixels
    height, width = pixels.shape[:2]
    size = _size_for(tags, width, height)
    image = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(image)
    pad = max(round(size / 3.5), 2)
    boxes, taken = np.array([tag.box for tag in tags]), np.zeros((0, 4))
    for tag in tags:
        text = shortened(tag.text, size, width - 2 * pad)
        if not text.strip("."):
            continue
        font = font_for(text, size)
        capital = capital_height(font)
        wide, tall = math.ceil(font.getlength(text)) + 2 * pad, capital + 2 * pad
        place = _best_place(tag, wide, tall, width, height, boxes, taken)
        if place is None:
            continue
        left, top = place
        taken = np.vstack([taken, [left, top, left + wide, top + tall]])
        canvas.rounded_rectangle((left, top, left + wide - 1, top + tall - 1), radius=0.8 * pad, fill=tag.colour)
        start = left + pad, top + pad + capital
        canvas.text(start, text, fill=text_colour_on(tag.colour), font=font, anchor="ls")
        if _areas(taken).sum() > _MOST_COVERED * width * height:
            break
    return np.asarray(image)


def _size_for(tags: Sequence[Tag], width: int, height: int) -> int:
    """Smaller where the tags together would hide much of the picture."""
    size = font_size(width, height)
    covered = sum(len(tag.text) for tag in tags) * 0.55 * 1.4 * size**2 / (width * height)
    return max(round(size * min(1.0, math.sqrt(0.15 / covered))), SMALLEST) if covered else size


def _best_place(
    tag: Tag, wide: int, tall: int, width: int, height: int, boxes: FloatArray, taken: FloatArray
) -> tuple[int, int] | None:
    """Left and top of the first place that hides nothing, or else of the one that hides least."""
    best, least = None, _MOST_HIDDEN
    for left, top in _places(tag, wide, tall):
        left = round(min(max(left, 0), max(width - wide, 0)))
        top = round(min(max(top, 0), max(height - tall, 0)))
        place = (left, top, left + wide, top + tall)
        hidden = max(_covered(place, taken), _covered(place, boxes) - _SPARED)
        if hidden < least:
            best, least = (left, top), hidden
        if hidden <= 0:
            break
    return best


def _places(tag: Tag, wide: int, tall: int) -> Iterator[tuple[float, float]]:
    """Above the box, below it, within it, beside it."""
    left, top, right, bottom = tag.box.tolist()
    yield min(max(tag.peak - wide / 2, left), max(right - wide, left)), top - tall
    yield left, top - tall
    yield right - wide, top - tall
    yield left, bottom
    yield right - wide, bottom
    yield left, top
    yield right - wide, bottom - tall
    yield right, top
    yield left - wide, top


def _covered(place: tuple[float, float, float, float], others: FloatArray) -> float:
    """The largest share that any of the others loses to this place."""
    left, top, right, bottom = place
    across = np.minimum(right, others[:, 2]) - np.maximum(left, others[:, 0])
    down = np.minimum(bottom, others[:, 3]) - np.maximum(top, others[:, 1])
    return float((across.clip(0) * down.clip(0) / np.maximum(_areas(others), 1)).max(initial=0.0))


def _areas(boxes: FloatArray) -> FloatArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
