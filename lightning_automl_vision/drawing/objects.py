"""Pictures with what was found, or what is true, drawn into them: at any size, on any background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lightning_automl_vision.drawing.captions import captioned
from lightning_automl_vision.drawing.colours import PALETTE, Colour, colour_of
from lightning_automl_vision.drawing.lettering import font_size, one_line
from lightning_automl_vision.drawing.tags import Tag, write_tags
from lightning_automl_vision.masks import Crop, draw_polygons
from lightning_automl_vision.outlines import crops_of, polygons_of
from lightning_automl_vision.samples import (
    Boxes,
    FloatArray,
    Masks,
    Pixels,
    Place,
    ScoredBoxes,
    ScoredLabels,
    ScoredMasks,
)

_FILL = 0.42
_SHADE = 0.5
_SMALL = 160
_OUTLINE_POINTS = 400
_SUBPIXEL = 4  # binary digits


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Objects as they are drawn, the most important first; masks only where there are some."""

    boxes: FloatArray
    colours: Sequence[Colour]
    texts: Sequence[str]
    masks: Sequence[Crop] | None = None


def annotated(pixels: Pixels, objects: ScoredLabels | Boxes | ScoredBoxes, classes: Sequence[str] = ()) -> Pixels:
    """A copy with a prediction, or with a truth in the picture's pixels, whose ``classes`` are to be given.

    A picture of less than 160 pixels is magnified first. What a classifier says stands below the picture.
    """
    factor = max(_SMALL // max(pixels.shape[:2]), 1)
    pixels = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1) if factor > 1 else pixels.copy()
    if isinstance(objects, ScoredLabels):
        return captioned(pixels, objects)
    return _drawn(pixels, _shown(_magnified(objects, factor), classes, pixels.shape[1], pixels.shape[0]))


def _magnified(objects: Boxes | ScoredBoxes, factor: int) -> Boxes | ScoredBoxes:
    if isinstance(objects, ScoredBoxes):
        size = objects.width * factor, objects.height * factor
        return replace(objects, boxes=objects.boxes * factor, width=size[0], height=size[1])
    return objects.placed(Place(0, 0, factor, factor))


def _shown(objects: Boxes | ScoredBoxes, classes: Sequence[str], width: int, height: int) -> Shown:
    masks: Sequence[Crop] | None = None
    if isinstance(objects, ScoredBoxes):
        classes, marks = objects.classes, [f"{score:.2f}" for score in objects.scores]
        masks = crops_of(objects) if isinstance(objects, ScoredMasks) else None
    else:
        marks = ["(crowd)" if crowd else "" for crowd in objects.crowd]
        if isinstance(objects, Masks):
            masks = [draw_polygons(parts, width, height) for parts in objects.polygons]
    only_class = len(classes) == 1
    # The only class there is need not be named again and again, and its outlines, which may touch, differ in colour.
    labels: list[int] = objects.labels.tolist()
    names = ["" if only_class and index else one_line(classes[label], label) for index, label in enumerate(labels)]
    numbers = range(len(names)) if only_class and masks is not None else labels
    return Shown(
        boxes=objects.boxes,
        colours=[colour_of(number % PALETTE if only_class else number) for number in numbers],
        texts=[f"{name} {mark}".strip() for name, mark in zip(names, marks, strict=True)],
        masks=masks,
    )


def _drawn(pixels: Pixels, shown: Shown) -> Pixels:
    height, width = pixels.shape[:2]
    line = max(round(font_size(width, height) / 7), 1)
    if shown.masks is not None:
        for crop, colour in reversed(list(zip(shown.masks, shown.colours, strict=True))):
            _tint(pixels, crop, colour)
        _draw_outlines(pixels, shown, line)
    boxed = [index for index in range(len(shown.texts)) if shown.masks is None or not shown.masks[index].pixels.any()]
    if boxed:
        _draw_boxes(pixels, shown, boxed, line)
    return write_tags(pixels, _tags(shown, line))


def _tags(shown: Shown, line: int) -> list[Tag]:
    """The best of each class come first, so that every colour is explained."""
    order = sorted(range(len(shown.texts)), key=lambda index: shown.colours.index(shown.colours[index]) != index)
    around = np.array([-line, -line, line, line])
    return [
        Tag(shown.texts[index], shown.colours[index], shown.boxes[index] + around, _peak(shown, index))
        for index in order
        if shown.texts[index]
    ]


def _peak(shown: Shown, index: int) -> float:
    """Where an object is highest; at the left where only its box is known."""
    crop = None if shown.masks is None else shown.masks[index]
    if crop is None or not crop.pixels.any():
        return float(shown.boxes[index, 0])
    return crop.left + float(np.flatnonzero(crop.pixels[crop.pixels.any(axis=1).argmax()]).mean())


def _tint(pixels: Pixels, crop: Crop, colour: Colour) -> None:
    rows, columns = crop.pixels.shape
    part = pixels[crop.top : crop.top + rows, crop.left : crop.left + columns]
    tinted = cv2.addWeighted(part, 1 - _FILL, np.full_like(part, colour), _FILL, 0)
    np.copyto(part, tinted, where=crop.pixels[..., None])


def _draw_outlines(pixels: Pixels, shown: Shown, line: int) -> None:
    outlines = [
        [np.round((part - 0.5) * 2**_SUBPIXEL).astype(np.int32) for part in polygons_of(crop, _OUTLINE_POINTS)]
        for crop in shown.masks or ()
    ]
    shade = np.zeros(pixels.shape[:2], np.uint8)
    for parts in outlines:
        cv2.polylines(shade, parts, True, 255, line + 2 * _edge(line), cv2.LINE_AA, _SUBPIXEL)
    _darken(pixels, shade)
    for parts, colour in reversed(list(zip(outlines, shown.colours, strict=True))):
        cv2.polylines(pixels, parts, True, colour, line, cv2.LINE_AA, _SUBPIXEL)


def _draw_boxes(pixels: Pixels, shown: Shown, chosen: Sequence[int], line: int) -> None:
    """Lines lie outside the boxes, so that they hide no small object."""
    height, width = pixels.shape[:2]
    shade = np.zeros((height, width), np.uint8)
    frames = []
    for index in chosen:
        left, top, right, bottom = shown.boxes[index].tolist()
        thin = max(min(line, round(min(right - left, bottom - top) / 4)), 1)
        corners = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        frames.append((index, corners, thin))
        shaded_inside = _edge(thin) if min(right - left, bottom - top) > 8 * _edge(thin) else 0
        _frame(shade, corners, thin + _edge(thin), shaded_inside, 255)
    _darken(pixels, shade)
    for index, corners, thin in reversed(frames):
        _frame(pixels, corners, thin, 0, shown.colours[index])


def _frame(pixels: Pixels, box: tuple[int, int, int, int], outside: int, inside: int, value: int | Colour) -> None:
    """A line around the box, pulled into the picture where the box touches its border."""
    height, width = pixels.shape[:2]
    left, top = max(box[0] - outside, 0), max(box[1] - outside, 0)
    right, bottom = min(box[2] + outside, width), min(box[3] + outside, height)
    thick = outside + inside
    pixels[top : top + thick, left:right] = value
    pixels[max(bottom - thick, 0) : bottom, left:right] = value
    pixels[top:bottom, left : left + thick] = value
    pixels[top:bottom, max(right - thick, 0) : right] = value


def _edge(line: int) -> int:
    """How wide the shade is that sets a line off from a background of its own colour."""
    return max(line // 3, 1)


def _darken(pixels: Pixels, shade: Pixels) -> None:
    where = np.flatnonzero(shade)
    flat = pixels.reshape(-1, 3)
    flat[where] = (flat[where] * (1 - _SHADE / 255 * shade.ravel()[where, None])).astype(np.uint8)
