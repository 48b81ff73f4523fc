"""Truth beside prediction, for a handful of pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.data.resizing import resized_to
from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT, centred
from lightning_automl_vision.drawing.lettering import fitting, font_for
from lightning_automl_vision.drawing.objects import annotated
from lightning_automl_vision.samples import Boxes, Pixels, Place, ScoredBoxes

WIDEST = 1600
_GAP = 8
_PANEL = (WIDEST - 3 * _GAP) // 2
_SMALLEST_PANEL = 320
_LETTERS = 15


def truth_and_prediction(pixels: Pixels, truth: Boxes, prediction: ScoredBoxes, classes: Sequence[str] = ()) -> Pixels:
    """Side by side with a caption each, at most 1600 pixels wide.

    Truth and prediction are in pixels of an image of the prediction's size; ``pixels`` may be a smaller version of it.
    """
    width, height = _panel_size(prediction.width, prediction.height)
    panel = resized_to(pixels, width, height)
    across, down = width / prediction.width, height / prediction.height
    found = replace(prediction, boxes=prediction.boxes * ((across, down) * 2), width=width, height=height)
    true = truth.placed(Place(0, 0, across, down))
    names = tuple(classes) or prediction.classes
    captions = f"truth ({len(truth.labels)})", f"prediction ({len(found)} found)"
    drawn = annotated(panel, true, names), annotated(panel, replace(found, classes=names))
    left, right = (_with_caption(picture, caption) for picture, caption in zip(drawn, captions, strict=True))
    return np.hstack([left, np.full((len(left), _GAP, 3), BACKGROUND, np.uint8), right])


def grid(rows: Sequence[Pixels]) -> Pixels:
    """The pictures below each other, and side by side where they are narrow."""
    cell = max(row.shape[1] for row in rows)
    columns = max((WIDEST + _GAP) // (cell + _GAP), 1)
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    columns = min(columns, len(rows))
    return np.vstack([_framed_line(line, cell, columns) for line in lines])


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """As large as there is room for, and small pictures at most doubled; tall ones get no higher than they are wide."""
    scale = min(_PANEL / max(width, height), max(_SMALLEST_PANEL / max(width, height), 1.0), 2.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _with_caption(picture: Pixels, caption: str) -> Pixels:
    picture = centred(picture, _SMALLEST_PANEL // 2)
    strip = Image.new("RGB", (picture.shape[1], 2 * _LETTERS), BACKGROUND)
    text = fitting(caption, _LETTERS, picture.shape[1] - _LETTERS)
    ImageDraw.Draw(strip).text((_LETTERS / 2, _LETTERS), text, fill=TEXT, font=font_for(text, _LETTERS), anchor="lm")
    return np.vstack([np.asarray(strip), picture])


def _framed_line(line: Sequence[Pixels], cell: int, columns: int) -> Pixels:
    height = max(len(picture) for picture in line)
    whole = np.full((height + _GAP, columns * (cell + _GAP) - _GAP, 3), BACKGROUND, np.uint8)
    for column, picture in enumerate(line):
        left = column * (cell + _GAP)
        whole[: len(picture), left : left + picture.shape[1]] = picture
    return whole
