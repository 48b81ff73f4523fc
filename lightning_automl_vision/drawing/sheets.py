"""Many pictures on one sheet, each above what there is to say of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.data.resizing import resized_to
from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT, centred
from lightning_automl_vision.drawing.grid import WIDEST
from lightning_automl_vision.drawing.lettering import fitting, font_for
from lightning_automl_vision.drawing.objects import annotated
from lightning_automl_vision.samples import Boxes, Labels, Pixels, Place

COLUMN = WIDEST // 4 - 8
"""Four of them stand side by side in a grid."""

_LETTERS = 14
_QUIET = (168, 168, 176)


def panel(pixels: Pixels, target: Labels, classes: Sequence[str], captions: Sequence[str]) -> Pixels:
    """A picture with its objects drawn in, or its classes named below, and lines of text; a column wide."""
    height, width = pixels.shape[:2]
    scale = COLUMN / max(width, height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    picture, lines = resized_to(pixels, *size), list(captions)
    if isinstance(target, Boxes):
        picture = annotated(picture, target.placed(Place(0, 0, size[0] / width, size[1] / height)), classes)
    else:
        lines.insert(0, ", ".join(classes[label] for label in target.labels) or "no class")
    return np.vstack([centred(picture, COLUMN), *(_line(text, first=not number) for number, text in enumerate(lines))])


def _line(text: str, *, first: bool) -> Pixels:
    strip = Image.new("RGB", (COLUMN, round(1.5 * _LETTERS)), BACKGROUND)
    text = fitting(text, _LETTERS, COLUMN - _LETTERS)
    place, colour = (_LETTERS / 2, 0.75 * _LETTERS), TEXT if first else _QUIET
    ImageDraw.Draw(strip).text(place, text, fill=colour, font=font_for(text, _LETTERS), anchor="lm")
    return np.asarray(strip)
