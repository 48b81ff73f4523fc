"""What one overlap threshold says in detail: curves over the score, a confusion matrix, how each image fared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_automl_vision.metrics.matching import NOBODY, Partners, take_turns, voc_verdict
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects, check
from lightning_automl_vision.metrics.outcomes import NAN
from lightning_automl_vision.metrics.overlaps import overlapping
from lightning_automl_vision.samples import FloatArray, IntArray

# A curve of more points looks the same and makes the file large.
POINTS = 200


@dataclass(frozen=True, kw_only=True)
class ObjectCurve:
    """One class at each distinct score, from the highest down, if everything from that score up counts as found."""

    label: int
    scores: FloatArray
    recall: FloatArray
    precision: FloatArray
    f1: FloatArray

    @property
    def best_f1(self) -> float:
        """Nothing found is worth 0."""
        return float(self.f1.max()) if len(self.f1) else 0.0

    @property
    def best_score(self) -> float:
        """The highest score at which F1 is best; NaN if nothing was found."""
        return float(self.scores[self.f1.argmax()]) if len(self.f1) else NAN

    def as_dict(self) -> dict[str, Any]:
        """Thinned evenly to what a picture can show."""
        chosen = _thinned(len(self.scores))
        curves = {"recall": self.recall, "precision": self.precision, "f1": self.f1, "scores": self.scores}
        points = {name: values[chosen].round(6).tolist() for name, values in curves.items()}
        return {**points, "best_f1": self.best_f1, "best_f1_score": self.best_score}


def object_curves(
    truth: TrueObjects, found: FoundObjects, num_classes: int, *, iou_threshold: float
) -> Iterator[ObjectCurve]:
    """For each class that is true anywhere, by the rule of `voc_verdict`; what is left out makes no point."""
    check(truth, found, num_classes)
    verdict = voc_verdict(truth, found, iou_threshold=iou_threshold)
    labels, scores = verdict.found.labels[~verdict.left_out], verdict.found.scores[~verdict.left_out]
    right = verdict.right[~verdict.left_out]
    for label, truths in enumerate(truth.counts(num_classes).tolist()):
        if truths:
            of_class = slice(*np.searchsorted(labels, (label, label + 1)))
            ranked = scores[of_class].astype(np.float64)
            ends = np.flatnonzero(np.diff(ranked, append=-np.inf))
            hits = np.cumsum(right[of_class], dtype=np.int64)[ends]
            yield ObjectCurve(
                label=label,
                scores=ranked[ends],
                recall=hits / truths,
                precision=hits / (ends + 1),
                f1=2 * hits / (ends + 1 + truths),
            )


def confusion_matrix(
    truth: TrueObjects, found: FoundObjects, num_classes: int, *, iou_threshold: float, score_threshold: float
) -> IntArray:
    """(C + 1) x (C + 1) objects by true class (row) and found class; the last row and column are the background.

    Of what was found in an image above the score threshold, the best score takes first, whatever its class, the free
    true object that it overlaps most, if by the overlap threshold or more. A true object that nothing takes is in the
    background's column, what takes none is in its row; crowds, and what takes none and lies on a crowd of its class by
    the overlap threshold or more, are in neither.
    """
    check(truth, found, num_classes)
    found = found.chosen(found.scores > score_threshold)
    found = found.chosen(np.lexsort((-found.scores, found.images)))
    real = truth.chosen(~truth.crowd)
    partners = _partners(real, found, iou_threshold)
    took = partners != NOBODY
    missed = np.ones(len(real), dtype=np.bool_)
    missed[partners[took]] = False
    alone = ~took
    alone[overlapping(truth.chosen(truth.crowd), found, at_least=iou_threshold).found] = False
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    matrix[:-1, -1] = np.bincount(real.labels[missed], minlength=num_classes)
    matrix[-1, :-1] = np.bincount(found.labels[alone], minlength=num_classes)
    np.add.at(matrix, (real.labels[partners[took]], found.labels[took]), 1)
    return matrix


def _partners(truth: TrueObjects, found: FoundObjects, iou_threshold: float) -> Partners:
    """What takes what in an image, whatever the classes."""
    partners: Partners = take_turns(
        overlapping(truth, found, at_least=iou_threshold, by_class=False),
        found.groups(by_class=False),
        thresholds=np.array([iou_threshold]),
        ignored=np.zeros((1, len(truth)), dtype=np.bool_),
        crowd=truth.crowd,
    )[0, 0]
    return partners


def image_counts(
    truth: TrueObjects, found: FoundObjects, *, iou_threshold: float
) -> tuple[IntArray, IntArray, IntArray]:
    """For each image how many objects found are right and wrong and how many true ones are missed, as `voc` has it."""
    verdict = voc_verdict(truth, found, iou_threshold=iou_threshold)
    right, wrong, truths = (
        np.bincount(images, minlength=truth.image_count)
        for images in (
            verdict.found.images[verdict.right],
            verdict.found.images[verdict.wrong],
            truth.images[~truth.crowd],
        )
    )
    return right, wrong, truths - right


def _thinned(length: int) -> IntArray:
    return np.unique(np.linspace(0, max(length - 1, 0), min(POINTS, length)).round().astype(np.int64))
