"""Truth beside prediction, for a handful of pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.data.resizing import resized_to
from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT, centred
from lightning_automl_vision.drawing.lettering import font_for
from lightning_automl_vision.drawing.objects import annotated
from lightning_automl_vision.samples import Boxes, Pixels, Place, ScoredBoxes

WIDEST = 1600
_GAP = 8
_PANEL = (WIDEST - 3 * _GAP) // 2
_SMALLEST_PANEL = 320
_NARROWEST, _LOWEST = 160, 64
_LONG = 4
_LETTERS = 15


def truth_and_prediction(pixels: Pixels, truth: Boxes, prediction: ScoredBoxes, classes: Sequence[str] = ()) -> Pixels:
    """Side by side with a caption each, or below each other where they are very wide; at most 1600 pixels wide.

    Truth and prediction are in pixels of an image of the prediction's size; ``pixels`` may be a smaller version of it.
    """
    panel, place = _panel(pixels, prediction.width, prediction.height)
    found = replace(
        prediction,
        boxes=prediction.boxes * ((place.width, place.height) * 2) + ((place.left, place.top) * 2),
        width=panel.shape[1],
        height=panel.shape[0],
    )
    true = truth.placed(place)
    names = tuple(classes) or prediction.classes
    captions = f"truth ({len(truth.labels)})", f"prediction ({len(found)} found)"
    drawn = annotated(panel, true, names), annotated(panel, replace(found, classes=names))
    return _beside(*(_with_caption(*pair) for pair in zip(drawn, captions, strict=True)))


def grid(rows: Sequence[Pixels]) -> Pixels:
    """The pictures below each other, and side by side where they are narrow."""
    cell = max(row.shape[1] for row in rows)
    columns = max((WIDEST + _GAP) // (cell + _GAP), 1)
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    columns = min(columns, len(rows))
    return np.vstack([_framed_line(line, cell, columns) for line in lines])


def _panel(pixels: Pixels, width: int, height: int) -> tuple[Pixels, Place]:
    """A picture of an image of this size, with room around for names where it is narrow or low; and the image in it."""
    across, down = _panel_size(width, height)
    wide, tall = max(across, _NARROWEST), max(down, _LOWEST)
    left, top = (wide - across) // 2, (tall - down) // 2
    panel = np.full((tall, wide, 3), BACKGROUND, np.uint8)
    panel[top : top + down, left : left + across] = resized_to(pixels, across, down)
    return panel, Place(left, top, across / width, down / height)


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """As large as there is room for, and small pictures at most doubled; tall ones get no higher than they are wide.

    Long and thin ones get twice as long.
    """
    longest = WIDEST if _is_long(width, height) or _is_long(height, width) else _PANEL
    scale = min(longest / max(width, height), max(_SMALLEST_PANEL / max(width, height), 1.0), 2.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _is_long(length: int, other: int) -> bool:
    return length > _LONG * other


def _with_caption(picture: Pixels, caption: str) -> Pixels:
    font = font_for(caption, _LETTERS)
    picture = centred(picture, math.ceil(font.getlength(caption)) + _LETTERS)
    strip = Image.new("RGB", (picture.shape[1], 2 * _LETTERS), BACKGROUND)
    ImageDraw.Draw(strip).text((_LETTERS / 2, _LETTERS), caption, fill=TEXT, font=font, anchor="lm")
    return np.vstack([np.asarray(strip), picture])


def _beside(first: Pixels, second: Pixels) -> Pixels:
    """Side by side, or below each other where there is no room for that."""
    if first.shape[1] + _GAP + second.shape[1] > WIDEST:
        gap = np.full((_GAP, first.shape[1], 3), BACKGROUND, np.uint8)
        return np.vstack([first, gap, second])
    return np.hstack([first, np.full((len(first), _GAP, 3), BACKGROUND, np.uint8), second])


def _framed_line(line: Sequence[Pixels], cell: int, columns: int) -> Pixels:
    height = max(len(picture) for picture in line)
    whole = np.full((height + _GAP, columns * (cell + _GAP) - _GAP, 3), BACKGROUND, np.uint8)
    for column, picture in enumerate(line):
        left = column * (cell + _GAP)
        whole[: len(picture), left : left + picture.shape[1]] = picture
    return whole
