"""Which part of a picture is shown while training, and showing it.

A crop shows less than the picture, an expansion more than it; both together are still one window.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from lightning_automl_vision.data.resizing import Resizing, resized_to
from lightning_automl_vision.geometry import Window, visible_shares
from lightning_automl_vision.samples import Boxes, FloatArray, Pixels, Place
from lightning_automl_vision.settings import ObjectAugmentConfig, ObjectCropConfig

Moved = tuple[Pixels, Boxes]


def whole(pixels: Pixels) -> Window:
    return Window(0, 0, pixels.shape[1], pixels.shape[0])


def drawn_window(
    augment: ObjectAugmentConfig, objects: Boxes, width: int, height: int, generator: np.random.Generator
) -> Window:
    """What is shown of a picture: in whole pixels, and never nothing of it."""
    canvas = Window(0, 0, width, height)
    if generator.random() < augment.expand.p:
        factor = generator.uniform(1, augment.expand.factor)
        wide, high = round(width * factor), round(height * factor)
        left, top = (int(generator.integers(room + 1)) for room in (wide - width, high - height))
        canvas = Window(-left, -top, wide - left, high - top)
    if generator.random() < augment.crop.p:
        picture = Window(0, 0, width, height)
        canvas = _cropped(augment.crop, augment.minimum_visibility, objects, picture, canvas, generator) or canvas
    return canvas


def _cropped(
    crop: ObjectCropConfig,
    minimum_visibility: float,
    objects: Boxes,
    picture: Window,
    canvas: Window,
    generator: np.random.Generator,
) -> Window | None:
    """A part of the canvas around the middle of an object, or around any point of a picture without."""
    real = objects.chosen(~objects.crowd)
    for _ in range(crop.tries):
        size = _crop_size(crop, canvas, generator)
        if size is None:
            continue
        if not len(real.labels):
            return _around(generator.uniform(picture[:2], picture[2:]), size, canvas, generator)
        index = int(generator.integers(len(real.labels)))
        window = _around((real.boxes[index, :2] + real.boxes[index, 2:]) / 2, size, canvas, generator)
        if visible_shares(real.chosen(np.array([index])), window)[0] >= minimum_visibility:
            return window
    return None


def _crop_size(crop: ObjectCropConfig, canvas: Window, generator: np.random.Generator) -> tuple[int, int] | None:
    """None if no shape that is asked for fits into the canvas at the size that was drawn."""
    share = generator.uniform(crop.scale[0], crop.scale[1])
    narrowest, widest = max(crop.ratio[0], share), min(crop.ratio[1], 1 / share)
    if narrowest > widest:
        return None
    ratio = math.exp(generator.uniform(math.log(narrowest), math.log(widest)))
    sides = canvas.width * math.sqrt(share * ratio), canvas.height * math.sqrt(share / ratio)
    return max(round(sides[0]), 1), max(round(sides[1]), 1)


def _around(point: FloatArray, size: tuple[int, int], canvas: Window, generator: np.random.Generator) -> Window:
    """A window of this size, anywhere in the canvas as long as the point is in it."""
    corner = []
    for middle, side, low, high in zip(point, size, canvas[:2], canvas[2:], strict=True):
        first = max(math.ceil(middle - side), int(low))
        last = min(math.floor(middle), int(high) - side)
        corner.append(int(generator.integers(first, max(first, last) + 1)))
    left, top = corner
    return Window(left, top, left + size[0], top + size[1])


def shown(pixels: Pixels, objects: Boxes, window: Window, resizing: Resizing | None, fill: int) -> Moved:
    """The window as a picture, gray where it shows more than there is.

    A picture that will be made smaller anyway already is, so that no large canvas is ever filled.
    """
    picture = whole(pixels).overlap(window)
    assert picture is not None
    width, height = _shown_size(window, resizing)
    across, down = width / window.width, height / window.height
    left, top = round((picture.left - window.left) * across), round((picture.top - window.top) * down)
    right = max(round((picture.right - window.left) * across), left + 1)
    bottom = max(round((picture.bottom - window.top) * down), top + 1)
    pixels = pixels[int(picture.top) : int(picture.bottom), int(picture.left) : int(picture.right)]
    pixels = resized_to(pixels, right - left, bottom - top)
    if (left, top, right, bottom) != (0, 0, width, height):
        borders = top, height - bottom, left, width - right
        pixels = cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_CONSTANT, value=(fill,) * 3)  # type: ignore[assignment]
    across, down = (right - left) / picture.width, (bottom - top) / picture.height
    return pixels, objects.placed(Place(left - picture.left * across, top - picture.top * down, across, down))


def _shown_size(window: Window, resizing: Resizing | None) -> tuple[int, int]:
    width, height = int(window.width), int(window.height)
    if resizing is None:
        return width, height
    place = resizing.place(width, height)
    smaller = place.width <= width and place.height <= height
    return (int(place.width), int(place.height)) if smaller else (width, height)
