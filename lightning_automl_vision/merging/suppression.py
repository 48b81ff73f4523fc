"""Non-maximum suppression: of boxes that overlap too much the best stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Candidates, Merged, checked_threshold, gathered, tie_order
from lightning_automl_vision.merging.islands import islands
from lightning_automl_vision.merging.overlaps import (
    Neighbours,
    Overlap,
    Pairs,
    areas,
    overlap_of,
    overlaps_with,
)
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

# With more candidates a box than this the better ones go first, and what they suppress is compared no more.
_CROWDED = 16
# Each round settles what waits for nothing; a chain longer than this is followed box by box.
_ROUNDS = 24


def nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float,
    class_agnostic: bool = False,
) -> Merged:
    """From the best on, a box stays unless one that stays, of its class, overlaps it by an IoU above the threshold."""
    return _suppressed(boxes, scores, labels, threshold, class_agnostic, "iou")


def ios_nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float,
    class_agnostic: bool = False,
) -> Merged:
    """As ``nms``, with the common area over that of the smaller box.

    An object seen whole beats its halves where it scores at least as high as they do; a half that scores higher
    suppresses the whole (``greedy_merging`` answers with the whole in both cases).
    """
    return _suppressed(boxes, scores, labels, threshold, class_agnostic, "ios")


def _suppressed(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    threshold: float,
    class_agnostic: bool,
    overlap: Overlap,
) -> Merged:
    checked_threshold(threshold)
    candidates = Candidates.of(boxes, scores, labels, class_agnostic=class_agnostic)
    neighbours = Neighbours.of(candidates.boxes, candidates.groups)
    stays = _survivors(neighbours, np.ones(len(candidates), np.bool_), candidates.boxes, threshold, overlap)
    return candidates.alone(np.flatnonzero(stays))


def _survivors(
    neighbours: Neighbours, open_: BoolArray, boxes: FloatArray, threshold: float, overlap: Overlap
) -> BoolArray:
    """Which of the open boxes stay, all given best first."""
    count = np.count_nonzero(open_)
    if count <= _CROWDED or neighbours.about() <= _CROWDED * count:
        stays, _ = settled(len(boxes), *conflicts(neighbours.pairs(), boxes, threshold, overlap))
        return stays & open_
    head = np.zeros_like(open_)
    head[np.flatnonzero(open_)[: -(-count // 4)]] = True
    stays = _survivors(neighbours.among(head), head, boxes, threshold, overlap)
    tail = open_ & ~head
    _, hit = conflicts(neighbours.between(stays, tail), boxes, threshold, overlap)
    tail[hit] = False
    return stays | _survivors(neighbours.among(tail), tail, boxes, threshold, overlap)


def conflicts(
    pairs: Iterable[Pairs], boxes: FloatArray, threshold: float, overlap: Overlap
) -> tuple[IntArray, IntArray]:
    """Pairs of boxes, given best first, of which only one may stay: the better ones, and the worse ones beside them."""
    size = areas(boxes)
    better, worse = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, second, common in pairs:
        found = overlap_of(common, size[first], size[second], overlap) > threshold
        better.append(np.minimum(first[found], second[found]))
        worse.append(np.maximum(first[found], second[found]))
    return np.concatenate(better), np.concatenate(worse)


def settled(
    count: int, better: IntArray, worse: IntArray, blocked: BoolArray | None = None
) -> tuple[BoolArray, BoolArray]:
    """Which boxes stay for certain, and which go, while of the blocked ones only their conflicts are known.

    Without blocked ones every box does one or the other.
    """
    open_ = np.ones(count, np.bool_)
    stays, goes = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for _ in range(_ROUNDS):
        free = open_.copy() if blocked is None else open_ & ~blocked
        free[worse] = False
        stays |= free
        out = worse[free[better]]
        goes[out] = True
        open_ &= ~free
        open_[out] = False
        if not len(out):
            return stays, goes
        left = open_[better] & open_[worse]
        better, worse = better[left], worse[left]
    return _followed(stays, goes, better, worse, blocked)


def _followed(
    stays: BoolArray, goes: BoolArray, better: IntArray, worse: IntArray, blocked: BoolArray | None
) -> tuple[BoolArray, BoolArray]:
    """What `settled` does, along the conflicts that are left, from the best box on."""
    gone, waits = goes.tolist(), [False] * len(goes) if blocked is None else blocked.tolist()
    order = np.argsort(better, kind="stable")
    for one, other in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if gone[one]:
            continue
        if waits[one]:
            waits[other] = True
        else:
            gone[other] = True
    goes = np.array(gone, dtype=np.bool_)
    return stays | ~(goes | np.array(waits, dtype=np.bool_)), goes


def soft_nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float,
    class_agnostic: bool = False,
    floor: float = 0.001,
) -> Merged:
    """The box with the best score is taken out, over and over, until none is left whose score is above the floor.

    Each time the scores of boxes of its class that are left and overlap it by an IoU above the threshold are multiplied
    by 1 - IoU. Doing it again lowers scores again: it is not idempotent.
    """
    checked_threshold(threshold)
    candidates = Candidates.of(boxes, scores, labels, class_agnostic=class_agnostic)
    values = candidates.scores.astype(np.float64)
    numbers = islands(candidates.boxes, candidates.groups, threshold, "iou")
    for places in (places for places in gathered(numbers) if len(places) > 1):
        values[places] = _decayed(candidates.boxes[places], values[places], candidates.labels[places], threshold, floor)
    kept = np.flatnonzero(values > floor)
    lowered = values[kept].astype(np.float32)
    return candidates.together(candidates.boxes[kept], lowered, list(kept.reshape(-1, 1)))


def _decayed(boxes: FloatArray, scores: FloatArray, labels: IntArray, threshold: float, floor: float) -> FloatArray:
    """The score each box had when it was taken out, or, of those that never were, the last one."""
    order = tie_order(boxes, labels)
    boxes, left, taken = boxes[order], scores[order], scores[order]
    while (best := int(np.argmax(left))) >= 0 and left[best] > floor:
        taken[best], left[best] = left[best], -1
        overlap = overlaps_with(boxes[best], boxes, "iou")
        overlap[best] = 0
        hit = overlap > threshold
        left[hit] *= 1 - overlap[hit]
    never = left >= 0
    taken[never] = left[never]
    answer = np.empty_like(taken)
    answer[order] = taken
    return answer
