"""The reference's own figures, for comparing with numbers that were published with them.

They differ from COCO's in small ways: a class is averaged over 101 recalls by trapezoids, a true object that several
boxes claim goes to the best scored of them, and precision and recall are those at the score with the best F1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

OVERLAPS = np.linspace(0.5, 0.95, 10)

_EPSILON = 1e-16
_IOU_EPSILON = 1e-7
_RECALLS = np.linspace(0, 1, 101)
_SCORES = np.linspace(0, 1, 1000)
_SMOOTHED = 0.1


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A row for each class that is true anywhere; ``average_precisions`` have a column for each overlap as well."""

    classes: IntArray
    average_precisions: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    true_positives: FloatArray
    false_positives: FloatArray

    @property
    def map_50(self) -> float:
        return float(self.average_precisions[:, 0].mean())

    @property
    def map_50_95(self) -> float:
        return float(self.average_precisions.mean())

    @property
    def fitness(self) -> float:
        """By which the best epoch is chosen."""
        return 0.1 * self.map_50 + 0.9 * self.map_50_95


def matched(
    truth_labels: IntArray,
    truth_boxes: FloatArray,
    labels: IntArray,
    boxes: FloatArray,
    overlaps: FloatArray = OVERLAPS,
) -> BoolArray:
    """Boxes x overlaps: which boxes of an image, best score first, are right when so much overlap is asked for.

    A box claims the true object of its class that it overlaps most; of several that claim one, the first is right.
    """
    right = np.zeros((len(labels), len(overlaps)), np.bool_)
    if not len(truth_labels) or not len(labels):
        return right
    shared = ious(truth_boxes, boxes) * (truth_labels[:, None] == labels)
    claimed, overlap = shared.argmax(axis=0), shared.max(axis=0)
    for column, least in enumerate(overlaps):
        claiming = np.flatnonzero(overlap >= least)
        _, first = np.unique(claimed[claiming], return_index=True)
        right[claiming[first], column] = True
    return right


def scored(right: BoolArray, scores: FloatArray, labels: IntArray, truth_labels: IntArray) -> Scores:
    """The figures of all images together: ``right`` has a row for each box, as ``matched`` gives it."""
    order = np.argsort(-scores, kind="stable")
    right, scores, labels = right[order], scores[order], labels[order]
    classes, truths = np.unique(truth_labels, return_counts=True)
    averages = np.zeros((len(classes), right.shape[1]))
    precisions, recalls = np.zeros((2, len(classes), len(_SCORES)))
    for row, (label, count) in enumerate(zip(classes, truths, strict=True)):
        chosen = labels == label
        if not chosen.any():
            continue
        hits = right[chosen].cumsum(axis=0)
        recall = hits / (count + _EPSILON)
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        averages[row] = [average_precision(*curve) for curve in zip(recall.T, precision.T, strict=True)]
        precisions[row], recalls[row] = (
            np.interp(-_SCORES, -scores[chosen], curve[:, 0], left=beyond)
            for curve, beyond in ((precision, 1), (recall, 0))
        )
    return _at_best_f1(classes, truths, averages, precisions, recalls)


def _at_best_f1(
    classes: IntArray, truths: IntArray, averages: FloatArray, precisions: FloatArray, recalls: FloatArray
) -> Scores:
    """At the score where the classes' mean F1, smoothed, is best."""
    f1 = 2 * precisions * recalls / (precisions + recalls + _EPSILON)
    best = smoothed(f1.mean(axis=0), _SMOOTHED).argmax()
    precision, recall = precisions[:, best], recalls[:, best]
    true_positives = (recall * truths).round()
    return Scores(
        classes=classes,
        average_precisions=averages,
        precision=precision,
        recall=recall,
        f1=f1[:, best],
        true_positives=true_positives,
        false_positives=(true_positives / (precision + _EPSILON) - true_positives).round(),
    )


def average_precision(recall: FloatArray, precision: FloatArray) -> float:
    """The area under precision over recall, where precision at a recall is the best at that recall or a higher one."""
    recalls = np.concatenate([[0.0], recall, [1.0]])
    precisions = np.concatenate([[1.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precisions[::-1])[::-1]
    heights = np.interp(_RECALLS, recalls, envelope)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(_RECALLS)).sum())


def smoothed(values: FloatArray, share: float) -> FloatArray:
    """Means over a window of about twice this share of the values; those at the ends are repeated beyond them."""
    window = round(len(values) * share * 2) // 2 + 1
    beyond = window // 2
    padded = np.pad(values, (beyond, beyond), mode="edge")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def confusion(
    truth_labels: IntArray,
    truth_boxes: FloatArray,
    labels: IntArray,
    boxes: FloatArray,
    scores: FloatArray,
    *,
    classes: int,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
) -> IntArray:
    """One image: predicted classes by true ones, each with a last place for none.

    Boxes and true objects find each other whatever their class, the most overlapping first. As the reference has it,
    boxes that find none are counted only in an image where some do.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    sure = scores > score_threshold
    labels, boxes = labels[sure], boxes[sure]
    shared = ious(truth_boxes, boxes)
    partners = np.full(len(truth_labels), -1)
    while shared.size and shared.max() > iou_threshold:
        truth, box = np.unravel_index(shared.argmax(), shared.shape)
        partners[truth] = box
        shared[truth], shared[:, box] = 0, 0
    found = partners >= 0
    np.add.at(table, (labels[partners[found]], truth_labels[found]), 1)
    table[classes, :classes] = np.bincount(truth_labels[~found], minlength=classes)
    if found.any():
        table[:classes, classes] = np.bincount(np.delete(labels, partners[found]), minlength=classes)
    return table


def ious(first: FloatArray, second: FloatArray) -> FloatArray:
    """First x second: intersection over union of corners."""
    corner = np.maximum(first[:, None, :2], second[:, :2])
    shared = np.clip(np.minimum(first[:, None, 2:], second[:, 2:]) - corner, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    overlaps: FloatArray = shared / (areas[0][:, None] + areas[1] - shared + _IOU_EPSILON)
    return overlaps
