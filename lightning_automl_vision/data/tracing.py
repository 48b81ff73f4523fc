"""Masks as polygons along the outlines of their pixels, so that filling the polygons gives the masks back."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np

from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

Values = TypeVar("Values", FloatArray, IntArray)

MOST_POINTS = 100
"""How many points the documented formats allow a polygon."""

_ROUNDS = 8
_LONG = 3
"""The pixels from which on an edge between two corners is taken for straight, and no step of a slanting one."""
_CALM = 0.05
"""Keeps a point in place where the two lines that it should lie on are nearly parallel."""
# The directions in which an outline leaves a corner, with the mask on its right hand.
_RIGHT, _DOWN, _LEFT, _UP = range(4)
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def mask_to_polygons(mask: BoolArray) -> list[FloatArray]:
    """P x 2 pixel corners of each outline; a hole is an outline within another.

    An outline of more than a hundred corners is simplified.
    """
    found = outlines(mask)
    return [part if len(part) <= MOST_POINTS else simplified(smooth(part), MOST_POINTS) for part in found]


def outlines(mask: BoolArray) -> list[FloatArray]:
    """The exact outlines, corners only; pixels that touch at a corner alone belong to different outlines."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    corner = columns[0] - 1, rows[0] - 1
    keys, width = _edges(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    place, direction = keys >> 2, keys & 3
    points = np.stack([place % width, place // width], axis=1) + corner
    following = _following(keys, place, direction, width)
    found = []
    for loop in _loops(following):
        turning = direction[loop] != direction[_previous(loop)]
        found.append(points[loop[turning]].astype(np.float64))
    return found


def smooth(outline: FloatArray) -> FloatArray:
    """The outline with its steps cut off, and with its true corners, between long edges, as they are.

    It still runs between the centres of the same pixels.
    """
    edges = _next(outline) - outline
    lengths = np.abs(edges).sum(axis=1)
    half = 0.5 * edges / lengths[:, None]
    corner = ((lengths >= _LONG) & (_previous(lengths) >= _LONG))[:, None]
    before = np.where(corner, outline, outline - _previous(half))
    after = np.where(corner, outline, outline + half)
    points = np.stack([before, after], axis=1).reshape(-1, 2)
    kept: FloatArray = points[(points != _previous(points)).any(axis=1)]
    return kept


def simplified(outline: FloatArray, most_points: int) -> FloatArray:
    """A smooth outline with at most so many points, at least three, as near to it and with as much inside as may be."""
    if len(outline) <= most_points:
        return outline
    calm = _calmed(outline).astype(np.float32)
    low, high = 0.0, 0.5
    while len(chosen := cv2.approxPolyDP(calm, high, True)) > most_points:
        low, high = high, 2 * high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        attempt = cv2.approxPolyDP(calm, middle, True)
        low, high = (low, middle) if len(attempt) <= most_points else (middle, high)
        chosen = attempt if len(attempt) <= most_points else chosen
    if len(chosen) < 3:
        return outline[np.linspace(0, len(outline), most_points, endpoint=False).astype(np.int64)]
    balanced = _balanced(calm.astype(np.float64), chosen[:, 0].astype(np.float64))
    return balanced.clip(outline.min(axis=0), outline.max(axis=0))


def _calmed(outline: FloatArray) -> FloatArray:
    """Each point a little towards its neighbours, so that the small waves of a slanting edge are gone."""
    ahead = _next(outline) - outline
    ahead *= (0.25 / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1))[:, None]
    return outline + ahead - _previous(ahead)


def _balanced(outline: FloatArray, chosen: FloatArray) -> FloatArray:
    """The chosen points moved so that each side has as much of the outline on its left as on its right.

    Sides from point to point cut off what bulges, and would make every object smaller.
    """
    where = _indices(outline, chosen)
    if where is None:
        return chosen
    chosen = outline[where]
    sides = _next(chosen) - chosen
    lengths = np.hypot(*sides.T)
    normals = np.stack([sides[:, 1], -sides[:, 0]], axis=1) / lengths[:, None]
    shifts = _areas_beside(outline, where) / lengths
    # A corner goes where its two shifted sides meet, or about halfway between them where they are nearly parallel.
    before, after = _previous(normals), normals
    wanted = before * _previous(shifts)[:, None] + after * shifts[:, None]
    a = before[:, 0] ** 2 + after[:, 0] ** 2 + _CALM
    b = before[:, 0] * before[:, 1] + after[:, 0] * after[:, 1]
    d = before[:, 1] ** 2 + after[:, 1] ** 2 + _CALM
    moved = np.stack([d * wanted[:, 0] - b * wanted[:, 1], a * wanted[:, 1] - b * wanted[:, 0]], axis=1)
    balanced: FloatArray = chosen + moved / (a * d - b * b)[:, None]
    return balanced


def _indices(outline: FloatArray, chosen: FloatArray) -> IntArray | None:
    """Where in the outline its chosen points are, in order; None where the outline passes a point twice."""
    code = outline[:, 0] + 1e6 * outline[:, 1]
    order = np.argsort(code)
    where = np.sort(order[np.searchsorted(code, chosen[:, 0] + 1e6 * chosen[:, 1], sorter=order)])
    return where if (np.diff(where) > 0).all() and len(np.unique(code)) == len(code) else None


def _areas_beside(outline: FloatArray, where: IntArray) -> FloatArray:
    """For each side between chosen points, the signed area between it and the outline."""
    x, y = np.vstack([outline, outline[: where[0] + 1]]).T
    swept = np.concatenate([[0.0], np.cumsum(x[:-1] * y[1:] - x[1:] * y[:-1])])
    ends = np.append(where[1:], where[0] + len(outline))
    chords = x[where] * y[ends] - x[ends] * y[where]
    areas: FloatArray = (swept[ends] - swept[where] - chords) / 2
    return areas


def _next(values: Values) -> Values:
    """For each the one after it, all around; np.roll does the same in ten times the time."""
    return np.concatenate([values[1:], values[:1]])


def _previous(values: Values) -> Values:
    return np.concatenate([values[-1:], values[:-1]])


def _edges(mask: BoolArray) -> tuple[IntArray, int]:
    """The pixel edges between the mask and the rest, as (corner they leave) * 4 + direction, in order.

    Corners are counted row by row, from one pixel above and left of the mask, in rows of the length that comes second.
    """
    width = mask.shape[1] + 2
    framed = np.zeros((mask.shape[0] + 2, width), dtype=np.bool_)
    framed[1:-1, 1:-1] = mask
    flat = framed.ravel()
    beside = np.flatnonzero(flat[1:] != flat[:-1])
    below = np.flatnonzero(flat[width:] != flat[:-width])
    leaves_right, leaves_down = flat[beside], flat[below]
    upright = (beside + np.where(leaves_right, 1, 1 + width) << 2) + np.where(leaves_right, _DOWN, _UP)
    level = (below + np.where(leaves_down, 1 + width, width) << 2) + np.where(leaves_down, _LEFT, _RIGHT)
    return np.sort(np.concatenate([upright, level])), width


def _following(keys: IntArray, place: IntArray, direction: IntArray, width: int) -> IntArray:
    """The edge after each; where two outlines meet it turns right, so that it stays with its pixel."""
    step = _STEPS[direction]
    end = place + step[:, 0] + step[:, 1] * width
    first = np.searchsorted(keys, end << 2)
    right = (end << 2) + (direction + 1) % 4
    second = np.minimum(first + 1, len(keys) - 1)
    turns_right = (keys[first] != right) & (keys[second] == right)
    following: IntArray = np.where(turns_right, second, first)
    return following


def _loops(following: IntArray) -> list[IntArray]:
    """Each closed outline as the indices of its edges."""
    successor = following.tolist()
    open_edges = bytearray(b"\x01") * len(successor)
    found = []
    start = 0
    while (start := open_edges.find(1, start)) >= 0:
        loop = []
        edge = start
        while open_edges[edge]:
            open_edges[edge] = 0
            loop.append(edge)
            edge = successor[edge]
        found.append(np.array(loop))
    return found
