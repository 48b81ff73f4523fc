"""Parts of objects that are erased, so that a model learns to find what is half hidden."""

from __future__ import annotations

import math

import cv2
import numpy as np

from lightning_automl_vision.geometry import Window
from lightning_automl_vision.samples import FloatArray, Pixels
from lightning_automl_vision.settings import OcclusionConfig

# The narrowest rectangle that hides a part of an object, in proportion to the object's own shape.
_NARROWEST = 0.3


def hiding_places(boxes: FloatArray, occlusion: OcclusionConfig, generator: np.random.Generator) -> list[Window]:
    """A rectangle of whole pixels within each of some of the boxes, which lie in the picture."""
    if not len(boxes):
        return []
    count = int(generator.integers(1, min(occlusion.objects, len(boxes)) + 1))
    chosen = generator.choice(len(boxes), count, replace=False)
    return [_hiding_place(boxes[index], occlusion, generator) for index in chosen]


def _hiding_place(box: FloatArray, occlusion: OcclusionConfig, generator: np.random.Generator) -> Window:
    share = generator.uniform(occlusion.share[0], occlusion.share[1])
    narrowest = math.log(max(share, _NARROWEST))
    ratio = math.exp(generator.uniform(narrowest, -narrowest))
    sides = (box[2:] - box[:2]) * np.sqrt([share * ratio, share / ratio])
    corner = generator.uniform(box[:2], box[2:] - sides)
    left, top = np.floor(corner + 0.5)
    right, bottom = np.floor(corner + sides + 0.5)
    return Window(left, top, max(right, left + 1), max(bottom, top + 1))


def erase(pixels: Pixels, places: list[Window], fill: str, gray: int, generator: np.random.Generator) -> Pixels:
    """A copy of the picture in which the places are filled."""
    colour = np.asarray(cv2.mean(pixels)[:3]).round() if fill == "mean" else gray
    pixels = pixels.copy()
    for place in places:
        left, top, right, bottom = map(int, place)
        hidden = pixels[top:bottom, left:right]
        if fill == "noise":
            hidden[:] = generator.integers(0, 256, hidden.shape, dtype=np.uint8)
        else:
            hidden[:] = colour
    return pixels
