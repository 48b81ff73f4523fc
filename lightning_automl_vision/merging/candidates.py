"""Boxes that wait to be merged, in an order of their own, and what they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import FloatArray, IntArray, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The objects of an image, best first; ``sources`` holds the inputs that each stands for, its best one first."""

    boxes: FloatArray
    scores: Scores
    labels: IntArray
    sources: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Boxes best first, the groups within which they meet, and where each stood in the input."""

    boxes: FloatArray
    scores: Scores
    labels: IntArray
    groups: IntArray
    indices: IntArray

    @classmethod
    def of(cls, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], *, class_agnostic: bool) -> Candidates:
        boxes, scores, labels = checked(boxes, scores, labels)
        order = best_first(boxes, scores, labels)
        labels = labels[order]
        groups = np.zeros_like(labels) if class_agnostic else numbered(labels)
        return cls(boxes=boxes[order], scores=scores[order], labels=labels, groups=groups, indices=order)

    def __len__(self) -> int:
        return len(self.scores)

    def alone(self, kept: IntArray) -> Merged:
        """Some of them, in order, each standing for itself."""
        return Merged(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            sources=tuple(self.indices[kept].reshape(-1, 1)),
        )

    def together(self, boxes: FloatArray, scores: Scores, members: Sequence[IntArray]) -> Merged:
        """Boxes that stand for several candidates each, which are given by their places, the best of them first."""
        first = np.array([places[0] for places in members], dtype=np.int64)
        sources = tuple(self.indices[places] for places in members)
        return _sorted(boxes, scores, self.labels[first], sources)


def checked(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> tuple[FloatArray, Scores, IntArray]:
    """The arrays in the types used here; ValueError where they are no boxes with scores and class indices."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    values, classes = np.asarray(scores, dtype=np.float32), np.asarray(labels, dtype=np.int64)
    if not (values.shape == classes.shape == corners.shape[:1]):
        raise ValueError(f"{len(corners)} boxes need as many scores and labels, got {values.shape}, {classes.shape}")
    right, ordered = np.isfinite(corners), corners[:, 2:] >= corners[:, :2]
    good = np.isfinite(values) & (values >= 0)
    if not (right.all() and ordered.all() and good.all()):
        index = int(np.argmin(good & right.all(axis=1) & ordered.all(axis=1)))
        raise ValueError(
            f"a box needs finite corners x1 <= x2, y1 <= y2 and a score of at least 0; "
            f"box {index} is {corners[index].tolist()} with score {values[index]}"
        )
    return corners, values, classes


def checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    return threshold


def numbered(labels: IntArray) -> IntArray:
    """Small numbers that are equal where the labels are."""
    if not len(labels) or (labels.min() >= 0 and labels.max() < 1024):
        return labels
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def best_first(boxes: FloatArray, scores: Scores, labels: IntArray) -> IntArray:
    """The order by score; equal scores by area, larger first, then by corners and class."""
    order = np.argsort(-scores)
    ordered = scores[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rivals = np.sort(order[tied])
        order[tied] = rivals[_by_boxes(boxes[rivals], labels[rivals], -scores[rivals])]
    return order


def tie_order(boxes: FloatArray, labels: IntArray) -> IntArray:
    """The order in which equal scores come."""
    return _by_boxes(boxes, labels, np.zeros(len(boxes), np.float32))


def _by_boxes(boxes: FloatArray, labels: IntArray, first: Scores) -> IntArray:
    left, top, right, bottom = boxes.T
    return np.lexsort((labels, bottom, right, top, left, -(right - left) * (bottom - top), first))


def gathered(numbers: IntArray) -> list[IntArray]:
    """The places of each number, in their order; numbers in their order too."""
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    bounds = [0, *cuts.tolist(), len(order)]
    return [order[begin:end] for begin, end in pairwise(bounds) if end > begin]


def joined(parts: Sequence[Merged]) -> Merged:
    """Results whose sources number one input, as one result."""
    boxes = np.concatenate([np.empty((0, 4)), *(part.boxes for part in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)])
    labels = np.concatenate([np.empty(0, np.int64), *(part.labels for part in parts)])
    return _sorted(boxes, scores, labels, tuple(source for part in parts for source in part.sources))


def _sorted(boxes: FloatArray, scores: Scores, labels: IntArray, sources: tuple[IntArray, ...]) -> Merged:
    """Best first; of equal results the one whose best input came first."""
    arrived = np.argsort(np.array([source[0] for source in sources], dtype=np.int64))
    order = arrived[best_first(boxes[arrived], scores[arrived], labels[arrived])]
    return Merged(
        boxes=boxes[order],
        scores=scores[order],
        labels=labels[order],
        sources=tuple(sources[place] for place in order.tolist()),
    )
