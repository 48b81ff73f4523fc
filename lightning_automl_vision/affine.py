"""One random change of a picture's geometry as a matrix, and what it does to objects; all in pixels, numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from lightning_automl_vision.geometry import Window, bounds, clipped, still_seen, visible_shares
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, Masks
from lightning_automl_vision.settings import AffineConfig

B = TypeVar("B", bound=Boxes)
Size = tuple[float, float]

# The nearest corner of a canvas is magnified no more than ten times, and none ever lies behind the viewer.
_MOST_PERSPECTIVE = 0.9
_LEAST_SIDE = 2.0  # pixels
_LEAST_SHARE = 0.1
_LEAST_SHARE_OF_POLYGONS = 0.01
_MOST_ASPECT = 100.0
_TINY = 1e-16


class Change(NamedTuple):
    """Angles are in degrees, the new centre in shares of the output; no field is a mere share of what is allowed."""

    perspective_across: float = 0.0
    perspective_down: float = 0.0
    turn: float = 0.0
    scale: float = 1.0
    shear_across: float = 0.0
    shear_down: float = 0.0
    centre_across: float = 0.5
    centre_down: float = 0.5


def drawn_change(affine: AffineConfig, generator: np.random.Generator) -> Change:
    return change_at(affine, generator.random(len(Change._fields)).tolist())


def change_at(affine: AffineConfig, positions: Sequence[float]) -> Change:
    """The change whose parts lie so far (0 to 1) between the smallest and the largest that are allowed."""
    usual = Change()
    spans = (
        *(affine.perspective,) * 2,
        affine.degrees,
        affine.scale,
        *(affine.shear,) * 2,
        *(affine.translate,) * 2,
    )
    parts = zip(usual, spans, positions, strict=True)
    return Change(*(middle - span + 2 * span * position for middle, span, position in parts))


def affine_matrix(change: Change, canvas: Size, output: Size) -> FloatArray:
    """From pixels of the canvas to those of the output; the canvas' middle comes to the change's centre."""
    across, down = _bearable(change, canvas)
    angle, scale = math.radians(change.turn), change.scale
    centred = np.array([[1, 0, -canvas[0] / 2], [0, 1, -canvas[1] / 2], [0, 0, 1]])
    tilted = np.array([[1, 0, 0], [0, 1, 0], [across, down, 1]])
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turned = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    slants = (math.tan(math.radians(shear)) for shear in (change.shear_across, change.shear_down))
    slanted = np.array([[1, next(slants), 0], [next(slants), 1, 0], [0, 0, 1]])
    placed = np.array([[1, 0, change.centre_across * output[0]], [0, 1, change.centre_down * output[1]], [0, 0, 1]])
    matrix: FloatArray = placed @ slanted @ turned @ tilted @ centred
    return matrix


def _bearable(change: Change, canvas: Size) -> tuple[float, float]:
    across, down = change.perspective_across, change.perspective_down
    reach = (abs(across) * canvas[0] + abs(down) * canvas[1]) / 2
    factor = min(1.0, _MOST_PERSPECTIVE / reach) if reach else 1.0
    return across * factor, down * factor


def moved_points(points: FloatArray, matrix: FloatArray) -> FloatArray:
    """N x 2 points; a perspective is divided out."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    result: FloatArray = moved[:, :2] / moved[:, 2:]
    return result


def moved(target: B, matrix: FloatArray) -> B:
    """Boxes around the moved corners, or around the moved polygons of objects that have any."""
    if isinstance(target, Masks):
        polygons = tuple(tuple(moved_points(part, matrix) for part in parts) for parts in target.polygons)
        boxes = np.array([bounds(np.concatenate(parts)) for parts in polygons]).reshape(-1, 4)
        return replace(target, boxes=boxes, polygons=polygons)
    corners = moved_points(target.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    return replace(target, boxes=np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1))


def changed(target: B, matrix: FloatArray, scale: float, picture: Window) -> B:
    """What of the objects is left in the picture, without those of which too little is."""
    after = moved(target, matrix)
    there = still_seen(visible_shares(after, picture))
    after = clipped(after.chosen(there), picture)
    share = _LEAST_SHARE_OF_POLYGONS if isinstance(target, Masks) else _LEAST_SHARE
    return after.chosen(kept(target.boxes[there] * scale, after.boxes, share))


def seen(target: B, window: Window) -> B:
    """What of the objects is in the window, without those of which nothing is."""
    return clipped(target.chosen(still_seen(visible_shares(target, window))), window)


def kept(before: FloatArray, after: FloatArray, least_share: float = _LEAST_SHARE) -> BoolArray:
    """Which boxes are still worth learning: more than 2 pixels each way, than that share of before, and no line.

    ``before`` is at the scale of ``after``. What `augment.minimum_visibility` asks for is judged apart from this.
    """
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    share = new.prod(axis=1) / (old.prod(axis=1) + _TINY)
    aspect = (new / (new[:, ::-1] + _TINY)).max(axis=1, initial=0.0)
    return np.asarray((new > _LEAST_SIDE).all(axis=1) & (share > least_share) & (aspect < _MOST_ASPECT))
