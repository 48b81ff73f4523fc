"""Pictures blended with others, and objects pasted into their own picture once more."""

from __future__ import annotations

import cv2
import numpy as np

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import flipped_horizontally
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.mosaic import Scene, composed, fitted_tile, joined
from lightning_automl_vision.samples import FloatArray, Masks, Pixels, Place

# Both pictures are seen about equally well.
_BLEND = 32.0
# Of no object may a pasted one hide so much.
_MOST_HIDDEN = 0.3


def blended(one: Scene, other: Scene, fill: int, generator: np.random.Generator) -> Scene:
    """Both pictures at once, at the size of the first, with the objects of both."""
    pixels, objects = one
    second, further = _fitted(other, (pixels.shape[1], pixels.shape[0]), fill)
    share = float(generator.beta(_BLEND, _BLEND))
    mixed = cv2.addWeighted(pixels, share, second, 1 - share, 0)
    return mixed, joined([objects, further])  # type: ignore[return-value]


def _fitted(scene: Scene, size: tuple[int, int], fill: int) -> Scene:
    pixels, objects = scene
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return scene
    shares = objects.shares(Place(0, 0, width, height))
    return composed([(pixels, shares)], [fitted_tile(width, height, size)], np.eye(3), size, fill=fill)


def pasted(pixels: Pixels, objects: Masks, share: float, generator: np.random.Generator) -> tuple[Pixels, Masks]:
    """So many of the objects a second time, mirrored with their place, where they hide little of what is there."""
    height, width = pixels.shape[:2]
    real = np.flatnonzero(~objects.crowd)
    drawn = generator.permutation(real)[: round(share * len(real))]
    mirrored = flipped_horizontally(objects.chosen(drawn), width)
    chosen: list[int] = []
    boxes = objects.boxes
    mask = np.zeros((height, width), np.uint8)
    for index, box in enumerate(mirrored.boxes):
        if (_hidden(boxes, box) >= _MOST_HIDDEN).any():
            continue
        crop = draw_polygons(mirrored.polygons[index], width, height)
        rows, columns = crop.pixels.shape
        mask[crop.top : crop.top + rows, crop.left : crop.left + columns][crop.pixels] = 255
        chosen.append(index)
        boxes = np.vstack([boxes, box])
    if not chosen:
        return pixels, objects
    result = pixels.copy()
    cv2.copyTo(cv2.flip(pixels, 1), mask, result)
    return result, joined([objects, mirrored.chosen(np.array(chosen))])


def without_polygons(share: float) -> ConfigError:
    """What is said where objects that have none are to be pasted."""
    return ConfigError(
        f"augment.copy_paste.p={share:g}: objects are cut out along their polygons, and this task's have none."
        " Leave it out, or choose task=image_instance_segmentation."
    )


def _hidden(boxes: FloatArray, box: FloatArray) -> FloatArray:
    """The share of each box that this one covers."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shares: FloatArray = (high - low).clip(0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shares
