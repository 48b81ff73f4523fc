"""Masks as polygons along the outlines of their pixels, so that filling the polygons gives the masks back."""

from __future__ import annotations

import cv2
import numpy as np

from lightning_automl_vision.samples import BoolArray, FloatArray

_MOST_POINTS = 100
_ROUNDS = 25
_RIGHT, _DOWN, _LEFT, _UP = range(4)
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def mask_to_polygons(mask: BoolArray) -> list[FloatArray]:
    """P x 2 pixel corners of each outline; a hole is an outline within another.

    An outline of more than a hundred points is simplified, by half a pixel more in each round.
    """
    return [_simplified(outline) for outline in outlines(mask)]


def outlines(mask: BoolArray) -> list[FloatArray]:
    """The exact outlines, corners only; pixels that touch at a corner alone belong to different outlines."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    edges = _edges(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    found = []
    while edges:
        points = _follow(edges)
        found.append(np.add(points, (left, top), dtype=np.float64))
    return found


def _edges(mask: BoolArray) -> dict[tuple[int, int], list[int]]:
    """For each corner the directions in which an outline leaves it, with the mask on its right hand."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, down = np.diff(padded, axis=1)[1:-1], np.diff(padded, axis=0)[:, 1:-1]
    edges: dict[tuple[int, int], list[int]] = {}
    for steps, sign, direction, shift in (
        (down, 1, _RIGHT, (0, 0)),
        (across, -1, _DOWN, (0, 0)),
        (down, -1, _LEFT, (1, 0)),
        (across, 1, _UP, (0, 1)),
    ):
        ys, xs = np.nonzero(steps == sign)
        for x, y in zip((xs + shift[0]).tolist(), (ys + shift[1]).tolist(), strict=True):
            edges.setdefault((x, y), []).append(direction)
    return edges


def _follow(edges: dict[tuple[int, int], list[int]]) -> list[tuple[int, int]]:
    """Take one closed outline out of the edges; where two meet, turn right, so that it stays with its pixel."""
    start = next(iter(edges))
    x, y = start
    heading = edges[start][0]
    first = heading
    points: list[tuple[int, int]] = []
    previous = -1
    while True:
        leaving = edges[x, y]
        right = (previous + 1) % 4
        heading = first if previous < 0 else right if right in leaving else leaving[0]
        leaving.remove(heading)
        if not leaving:
            del edges[x, y]
        if heading != previous:
            points.append((x, y))
        x, y = x + _STEPS[heading][0], y + _STEPS[heading][1]
        previous = heading
        if (x, y) == start and ((x, y) not in edges or (previous + 1) % 4 not in edges[x, y]):
            break
    return points if first != previous else points[1:]


def _simplified(outline: FloatArray) -> FloatArray:
    points = outline
    for round_number in range(1, _ROUNDS + 1):
        if len(points) <= _MOST_POINTS:
            break
        shorter = cv2.approxPolyDP(outline.astype(np.float32), 0.5 * round_number, True)[:, 0]
        points = shorter.astype(np.float64) if len(shorter) >= 3 else points
    return points
