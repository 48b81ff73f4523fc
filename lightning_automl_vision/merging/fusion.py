"""Weighted fusion: boxes of one object become their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Candidates, Merged, best_first, checked_threshold, gathered
from lightning_automl_vision.merging.islands import islands
from lightning_automl_vision.merging.overlaps import overlaps_with
from lightning_automl_vision.samples import FloatArray, IntArray, Scores

# A window has seen a place if it shows all of it but so many pixels.
_LEEWAY = 1.0
# What a score of zero weighs, so that boxes have a mean even if all scores are zero.
_NEXT_TO_NOTHING = 1e-30


def weighted_fusion(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float,
    class_agnostic: bool = False,
    windows: NDArray[Any] | None = None,
) -> Merged:
    """From the best on, a box joins the fused box of its class that it overlaps most by an IoU above the threshold.

    With none it begins a new one. A fused box has the mean corners of its inputs, weighted by their scores, and the
    class of the best. All of this is repeated with the fused boxes until none joins another.

    The score is the mean of the inputs' scores. With ``windows`` (V x 4 corners, all that were looked through) it is
    their sum, divided by the number of inputs or by that of the windows that show the whole fused box, whichever is
    more: what some windows missed is less sure. Then doing it again lowers scores again; else it changes nothing.
    """
    checked_threshold(threshold)
    candidates = Candidates.of(boxes, scores, labels, class_agnostic=class_agnostic)
    fused: list[_Fused] = []
    for places in gathered(islands(candidates.boxes, candidates.groups, threshold, "iou")):
        island = [_Fused.of(candidates, place) for place in places.tolist()]
        fused += island if len(island) == 1 else _settled(island, candidates.labels, threshold)
    corners = np.array([one.box for one in fused]).reshape(-1, 4)
    counts, sums = np.array([len(one.members) for one in fused]), np.array([one.score for one in fused])
    if windows is not None:
        counts = np.maximum(counts, _views(corners, np.asarray(windows, dtype=np.float64).reshape(-1, 4)))
    members = [np.array(sorted(one.members), dtype=np.int64) for one in fused]
    return candidates.together(corners, (sums / np.maximum(counts, 1)).astype(np.float32), members)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fused:
    """Sums over some inputs, and the bounds of their corners, which rounding must not carry the mean across."""

    members: tuple[int, ...]
    score: float
    weight: float
    moment: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, candidates: Candidates, place: int) -> _Fused:
        score, box = float(candidates.scores[place]), candidates.boxes[place]
        weight = max(score, _NEXT_TO_NOTHING)
        return cls(members=(place,), score=score, weight=weight, moment=weight * box, low=box, high=box)

    def __add__(self, other: _Fused) -> _Fused:
        return _Fused(
            members=self.members + other.members,
            score=self.score + other.score,
            weight=self.weight + other.weight,
            moment=self.moment + other.moment,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )

    @property
    def box(self) -> FloatArray:
        return np.clip(self.moment / self.weight, self.low, self.high)

    @property
    def mean_score(self) -> float:
        return self.score / len(self.members)


def _settled(fused: list[_Fused], labels: IntArray, threshold: float) -> list[_Fused]:
    """Pass after pass until none joins another."""
    count = 0
    while count != len(fused):
        count = len(fused)
        fused = _pass(_best_first(fused, labels), threshold)
    return fused


def _pass(fused: list[_Fused], threshold: float) -> list[_Fused]:
    clusters: list[_Fused] = []
    boxes = np.empty((len(fused), 4))
    for one in fused:
        box = one.box
        overlaps = overlaps_with(box, boxes[: len(clusters)], "iou")
        most = int(overlaps.argmax()) if len(clusters) else 0
        if len(clusters) and overlaps[most] > threshold:
            clusters[most] += one
            boxes[most] = clusters[most].box
        else:
            boxes[len(clusters)] = box
            clusters.append(one)
    return clusters


def _best_first(fused: list[_Fused], labels: IntArray) -> list[_Fused]:
    scores: Scores = np.array([one.mean_score for one in fused], dtype=np.float32)
    classes = labels[[min(one.members) for one in fused]]
    order = best_first(np.array([one.box for one in fused]), scores, classes)
    return [fused[place] for place in order.tolist()]


def _views(boxes: FloatArray, windows: FloatArray) -> IntArray:
    """How many windows show each box."""
    counts = np.zeros(len(boxes), np.int64)
    for left, top, right, bottom in windows.tolist():
        whole = (boxes[:, 0] >= left - _LEEWAY) & (boxes[:, 1] >= top - _LEEWAY)
        counts += whole & (boxes[:, 2] <= right + _LEEWAY) & (boxes[:, 3] <= bottom + _LEEWAY)
    return counts
