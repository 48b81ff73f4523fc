"""Average precision and recall of objects found, as PASCAL VOC (all recalls) and as COCO (101 recalls) define them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from lightning_automl_vision.metrics.matching import NOBODY, Partners, ranks_within, take_turns, voc_verdict
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects, check
from lightning_automl_vision.metrics.outcomes import NAN, mean_of_known, ratio
from lightning_automl_vision.metrics.overlaps import overlapping
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
"""Any size, small, medium and large, in square pixels; both ends belong to a range, as COCO has it."""
MOST = 100
"""As many objects of a class are looked at in an image, best first."""


@dataclass(frozen=True, kw_only=True)
class VocRow:
    """One class: how many are true and found, and the figures of those found; NaN is undefined."""

    label: int
    objects: int
    found: int
    average_precision: float
    precision: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class VocMetrics:
    """Means over the classes that are true anywhere, and a row for each class; NaN is undefined."""

    mean_average_precision: float
    precision: float
    recall: float
    rows: Sequence[VocRow]


def voc(truth: TrueObjects, found: FoundObjects, num_classes: int, *, iou_threshold: float) -> VocMetrics:
    """PASCAL VOC's figures since 2010; precision and recall are those of everything that is given as found.

    A class that is true somewhere but never found has precision 0: all of it was missed. Crowd objects are not to be
    found, and what lies on them counts neither as right nor as wrong.
    """
    check(truth, found, num_classes)
    verdict = voc_verdict(truth, found, iou_threshold=iou_threshold)
    starts = verdict.found.class_starts(num_classes)
    truths = truth.counts(num_classes)
    right, wrong = (
        np.bincount(verdict.found.labels[chosen], minlength=num_classes) for chosen in (verdict.right, verdict.wrong)
    )
    known = truths > 0
    precision = np.where(known | (right + wrong > 0), ratio(right, right + wrong, otherwise=0.0), NAN)
    recall = ratio(right, truths)
    counted = verdict.right | verdict.wrong
    averages = np.array(
        [
            _area_under_envelope(verdict.right[begin:end][counted[begin:end]], int(truths[label]))
            for label, (begin, end) in enumerate(pairwise(starts.tolist()))
        ]
    )
    return VocMetrics(
        mean_average_precision=mean_of_known(averages),
        precision=mean_of_known(precision[known]),
        recall=mean_of_known(recall),
        rows=[
            VocRow(
                label=label,
                objects=int(truths[label]),
                found=int(starts[label + 1] - starts[label]),
                average_precision=float(averages[label]),
                precision=float(precision[label]),
                recall=float(recall[label]),
            )
            for label in range(num_classes)
        ],
    )


def _area_under_envelope(right: BoolArray, truths: int) -> float:
    """Of precision over recall, where precision at a recall is the best at that recall or a higher one."""
    if not truths:
        return NAN
    places = np.flatnonzero(right)
    precision = np.arange(1, len(places) + 1) / (places + 1)
    return float(np.maximum.accumulate(precision[::-1]).sum() / truths)


@dataclass(frozen=True, kw_only=True)
class CocoNumbers:
    """COCO's twelve, over overlaps from 0.5 to 0.95 in steps of 0.05 where none is named; NaN is undefined."""

    ap: float
    ap_50: float
    ap_75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float


TWELVE = tuple(field.name for field in fields(CocoNumbers))


@dataclass(frozen=True, kw_only=True)
class CocoRow(CocoNumbers):
    """The numbers of one class, and how many are true and found."""

    label: int
    objects: int
    found: int

    def as_dict(self) -> dict[str, Any]:
        """Without the label, by which the row is known."""
        return {name: value for name, value in asdict(self).items() if name != "label"}


@dataclass(frozen=True, kw_only=True)
class CocoMetrics(CocoNumbers):
    """Each number is the mean over the classes where it is defined; a row for each class."""

    rows: Sequence[CocoRow]


def coco(truth: TrueObjects, found: FoundObjects, num_classes: int) -> CocoMetrics:
    """What COCO's evaluation says of masks where they are given, else of boxes."""
    check(truth, found, num_classes)
    given = np.bincount(found.labels, minlength=num_classes)
    found = found.ranked()
    ranks = ranks_within(found.groups(by_class=True))
    kept = ranks < MOST
    found, ranks = found.chosen(kept), ranks[kept]
    ignored = _outside(truth.extents.areas) | truth.crowd
    partners = take_turns(
        overlapping(truth, found, at_least=float(OVERLAPS[0])),
        found.groups(by_class=True),
        thresholds=OVERLAPS,
        ignored=ignored,
        crowd=truth.crowd,
    )
    outside = _outside(found.extents.areas)
    starts, truths = found.class_starts(num_classes), truth.counts(num_classes)
    rows = []
    for label, (begin, end) in enumerate(pairwise(starts.tolist())):
        figures = _figures(
            partners[:, :, begin:end], ignored, outside[:, begin:end], ranks[begin:end], truth.labels == label
        )
        rows.append(CocoRow(label=label, objects=int(truths[label]), found=int(given[label]), **figures))
    means = {name: mean_of_known(np.array([getattr(row, name) for row in rows])) for name in TWELVE}
    return CocoMetrics(rows=rows, **means)


def _outside(areas: FloatArray) -> BoolArray:
    """Ranges of area x objects."""
    return np.stack([(areas < low) | (areas > high) for low, high in AREAS])


def _figures(
    partners: Partners, ignored: BoolArray, outside: BoolArray, ranks: IntArray, of_class: BoolArray
) -> dict[str, float]:
    """The twelve numbers of one class; objects found are those of the class, best first."""
    truths = np.count_nonzero(~ignored & of_class, axis=1)
    if not truths[0]:
        return dict.fromkeys(TWELVE, NAN)
    rows = np.arange(len(AREAS))[:, None]
    matched = partners != NOBODY
    right = matched & ~ignored[rows, partners]
    counted = right | (~matched & ~outside)
    areas = range(len(AREAS))
    precision = [_mean_precisions(right[:, area], counted[:, area], int(truths[area])) for area in areas]
    recalls = [_recall(right[:, area], int(truths[area])) for area in areas]
    first = [_recall(right[:, 0, ranks < most], int(truths[0])) for most in (1, 10)]
    values = (
        *(precision[0].mean(), precision[0][0], precision[0][5]),
        *(precision[area].mean() for area in areas[1:]),
        *(*first, *recalls),
    )
    return {name: float(value) for name, value in zip(TWELVE, values, strict=True)}


def _recall(right: BoolArray, truths: int) -> float:
    """The mean over the overlaps."""
    return float(np.count_nonzero(right, axis=1).mean() / truths) if truths else NAN


def _mean_precisions(right: BoolArray, counted: BoolArray, truths: int) -> FloatArray:
    """For each overlap the mean over 101 recalls of the best precision at that recall or a higher one."""
    if not truths:
        return np.full(len(right), NAN)
    overlap, place = np.nonzero(right)
    hits = np.cumsum(right, axis=1, dtype=np.int32)[overlap, place]
    precision = np.zeros((len(right), truths))
    precision[overlap, hits - 1] = hits / np.cumsum(counted, axis=1, dtype=np.int32)[overlap, place]
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.searchsorted(np.arange(1, truths + 1) / truths, RECALLS)
    means: FloatArray = best[:, needed].mean(axis=1)
    return means
