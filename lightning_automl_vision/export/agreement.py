"""How far two answers for one picture are the same, from 0 to 1; numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import FloatArray, ScoredBoxes, ScoredLabels, ScoredMasks

# An object that scores so little above what is answered at all may be missing in the other answer.
EDGE = 0.01
_LEAST_OVERLAP = 0.5
_MARGIN = 0.5  # pixels


def agreement(first: Any, second: Any, *, threshold: float, most: int | None = None) -> float:
    """Of classes, 1 less the largest difference of a score; of objects, how much of both answers is in the other.

    Two objects are the same as far as their boxes and masks overlap and their scores are equal; an object counts as
    much as it scores, and where all of them are less than one object, what differs is still a part of one.
    ``threshold`` is what objects must exceed, ``most`` how many are answered at most.
    """
    if isinstance(first, ScoredLabels):
        return float(1 - np.nan_to_num(np.abs(first.scores - second.scores), nan=1.0).max())
    pairs = paired(first, second)
    together = [_weight(first, second, one, other) for one, other in pairs]
    parted = sum(weight * (1 - _sameness(first, second, *pair)) for weight, pair in zip(together, pairs, strict=True))
    for side, (own, other) in enumerate(((first, second), (second, first))):
        alone = np.delete(own.scores, [pair[side] for pair in pairs])
        parted += float(alone[alone > _edge(other, threshold, most)].sum()) / 2
    whole = float(first.scores.sum() + second.scores.sum()) / 2
    return max(1 - parted / max(whole, 1.0), 0.0)


def paired(first: ScoredBoxes, second: ScoredBoxes) -> list[tuple[int, int]]:
    """Objects of one class that overlap by half or more, the best scored first."""
    overlaps = _overlaps(first.boxes, second.boxes) * (first.labels[:, None] == second.labels)
    pairs = []
    for one in range(len(first)):
        other = int(overlaps[one].argmax()) if len(second) else 0
        if len(second) and overlaps[one, other] >= _LEAST_OVERLAP:
            pairs.append((one, other))
            overlaps[:, other] = 0
    return pairs


def _weight(first: ScoredBoxes, second: ScoredBoxes, one: int, other: int) -> float:
    return (float(first.scores[one]) + float(second.scores[other])) / 2


def _sameness(first: ScoredBoxes, second: ScoredBoxes, one: int, other: int) -> float:
    same = float(_overlaps(first.boxes[one : one + 1], second.boxes[other : other + 1])[0, 0])
    same *= 1 - abs(float(first.scores[one]) - float(second.scores[other]))
    if isinstance(first, ScoredMasks) and isinstance(second, ScoredMasks):
        same *= 1 - float(np.abs(first.shapes[one] - second.shapes[other]).mean())
    return same


def _edge(answer: ScoredBoxes, threshold: float, most: int | None) -> float:
    """Up to which score an object may be missing in this answer."""
    full = most is not None and len(answer) >= most
    return (float(answer.scores.min()) if full else threshold) + EDGE


def _overlaps(first: FloatArray, second: FloatArray) -> NDArray[np.float64]:
    """First x second: intersection over union, of boxes half a pixel larger on each side, so that none is nothing."""
    first, second = (np.add(boxes, (-_MARGIN, -_MARGIN, _MARGIN, _MARGIN)) for boxes in (first, second))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    whole = areas[0][:, None] + areas[1] - common
    overlaps: NDArray[np.float64] = common / whole
    return overlaps
