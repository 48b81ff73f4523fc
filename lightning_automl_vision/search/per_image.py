"""What a trial leaves of each validation image, so that its metric is known of any draw of them; numpy alone.

No prediction and no matching is ever repeated: an object found is right or wrong within its image, whatever other
images are drawn beside it. Every metric here is the better the larger.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.judging import Judged, Verdicts
from lightning_automl_vision.metrics.average_precision import MOST, RECALLS
from lightning_automl_vision.metrics.matching import NOBODY, ranks_within, take_turns, voc_verdict
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.metrics.outcomes import NAN, Outcomes, ratio
from lightning_automl_vision.metrics.overlaps import overlapping
from lightning_automl_vision.metrics.ranking import AnyScores
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray
from lightning_automl_vision.storage import replacing

Arrays = Mapping[str, NDArray[Any]]
PER_IMAGE = "per_image.npz"
"""What the file is called in the folder of a run."""
COCO_OVERLAP = 0.5
# So many weights of objects are held at a time: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Judging:
    """``metric`` says in full what is measured; trials with other words, or other names, are not to be compared.

    ``truth`` is a hash of what is true of the images, where that is kept.
    """

    metric: str
    names: tuple[str, ...]
    truth: str = ""

    def differs_from(self, other: Judging) -> str | None:
        """Why the two cannot be compared, or None."""
        if self.metric != other.metric:
            return f"one is judged by {self.metric}, the other by {other.metric}"
        if self.names == other.names:
            return None if self.truth == other.truth else "their images are labelled differently"
        alone = sorted(set(self.names) ^ set(other.names))
        if not alone:
            return "their images are in another order"
        return f"their images are not the same: {len(alone)} are in one of them only, such as {alone[0]}"


@dataclass(frozen=True, kw_only=True)
class PerImage(ABC):
    """What there is of each image, in the order of ``names``; ``metric`` says in full what is measured."""

    kind: ClassVar[str]
    metric: str
    names: tuple[str, ...]

    @property
    def judging(self) -> Judging:
        return Judging(metric=self.metric, names=self.names)

    def differs_from(self, other: PerImage) -> str | None:
        """Why the two cannot be compared, or None."""
        return self.judging.differs_from(other.judging)

    @abstractmethod
    def metrics_of(self, counts: FloatArray) -> FloatArray:
        """The metric of each draw: ``counts`` is images x draws, how often each image is in it."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """What is kept on disk beside metric and names."""

    def save(self, path: Path) -> None:
        header = json.dumps({"kind": self.kind, "metric": self.metric, "names": self.names})
        arrays: dict[str, Any] = {"header": np.frombuffer(header.encode(), np.uint8), **self.arrays()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)


def load(path: Path) -> PerImage:
    """What `PerImage.save` left."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        kind: type[PerImage] = _KINDS[header["kind"]]
        return kind(metric=header["metric"], names=tuple(header["names"]), **arrays)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. Without it the trial cannot be compared.") from None
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is not what a trial leaves of its images ({reason}).") from None


def metric_of(per_image: PerImage, drawn: IntArray) -> float:
    """The metric of the images drawn, by index; one drawn twice counts twice."""
    counts = np.bincount(drawn, minlength=len(per_image.names)).astype(np.float64)
    return float(per_image.metrics_of(counts[:, None])[0])


def metric_of_all(per_image: PerImage) -> float:
    return metric_of(per_image, np.arange(len(per_image.names)))


@dataclass(frozen=True, kw_only=True)
class ImageValues(PerImage):
    """A metric that is the mean of a value of each image."""

    kind = "values"
    values: FloatArray

    @classmethod
    def accuracy(
        cls,
        names: Sequence[str],
        scores: AnyScores,
        labels: NDArray[np.generic],
        classes: Sequence[str],
        predicted: BoolArray | None = None,
    ) -> Self:
        """1 where the best score, or what is ``predicted`` in its place, is that of the true class."""
        outcomes = Outcomes.of(scores, labels, multilabel=False, classes=classes, predicted=predicted)
        right = (outcomes.truth == outcomes.predicted).all(axis=1)
        return cls(metric="accuracy", names=tuple(names), values=_known(right.astype(np.float64), scores))

    @classmethod
    def iou(
        cls,
        names: Sequence[str],
        scores: AnyScores,
        labels: NDArray[np.generic],
        classes: Sequence[str],
        predicted: BoolArray | None = None,
    ) -> Self:
        """The share of the labels, true or given, that are both; 1 where there is none."""
        outcomes = Outcomes.of(scores, labels, multilabel=True, classes=classes, predicted=predicted)
        common = (outcomes.truth & outcomes.predicted).sum(axis=1)
        either = (outcomes.truth | outcomes.predicted).sum(axis=1)
        return cls(metric="iou", names=tuple(names), values=_known(ratio(common, either, otherwise=1.0), scores))

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise ValueError(f"each image has one value, got {len(self.names)} names and {len(self.values)} values")

    def metrics_of(self, counts: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            means: FloatArray = (self.values @ counts) / counts.sum(axis=0)
        return means

    def arrays(self) -> Arrays:
        return {"values": self.values}


def _known(values: FloatArray, scores: AnyScores) -> FloatArray:
    """As the metric itself: of no use, all of it, where a score is not finite."""
    return values if np.isfinite(scores).all() else np.full(len(values), NAN)


@dataclass(frozen=True, kw_only=True)
class ImageObjects(PerImage):
    """Mean average precision at one overlap, by PASCAL VOC's rule at all recalls, or by COCO's at 101 of them.

    Objects found that count as right or wrong, class by class, best score first; behind the last right one of a class
    they change nothing and are left out. ``truths`` is images x classes, how many are to be found.
    """

    kind = "objects"
    images: NDArray[np.int32]
    labels: NDArray[np.int32]
    right: BoolArray
    truths: NDArray[np.int32]
    recalls: FloatArray

    @classmethod
    def voc(
        cls, names: Sequence[str], truth: TrueObjects, found: FoundObjects, num_classes: int, *, iou_threshold: float
    ) -> Self:
        verdict = voc_verdict(truth, found, iou_threshold=iou_threshold)
        metric = f"mean_average_precision of voc at {iou_threshold:g}"
        return cls._of(metric, names, truth, verdict.found, verdict.right, ~verdict.left_out, num_classes, np.empty(0))

    @classmethod
    def coco(cls, names: Sequence[str], truth: TrueObjects, found: FoundObjects, num_classes: int) -> Self:
        """At COCO's overlap of 0.5, where that is what `mean_average_precision` is."""
        found = found.ranked()
        found = found.chosen(ranks_within(found.groups(by_class=True)) < MOST)
        partners = take_turns(
            overlapping(truth, found, at_least=COCO_OVERLAP),
            found.groups(by_class=True),
            thresholds=np.array([COCO_OVERLAP]),
            ignored=truth.crowd[None],
            crowd=truth.crowd,
        )[0, 0]
        matched = partners != NOBODY
        on_crowd = np.zeros(len(found), dtype=np.bool_)
        on_crowd[matched] = truth.crowd[partners[matched]]
        metric = f"mean_average_precision of coco at {COCO_OVERLAP:g}"
        return cls._of(metric, names, truth, found, matched & ~on_crowd, ~on_crowd, num_classes, RECALLS)

    @classmethod
    def _of(
        cls,
        metric: str,
        names: Sequence[str],
        truth: TrueObjects,
        found: FoundObjects,
        right: BoolArray,
        counted: BoolArray,
        num_classes: int,
        recalls: FloatArray,
    ) -> Self:
        last = np.full(num_classes, -1)
        np.maximum.at(last, found.labels[right], np.flatnonzero(right))
        kept = counted & (np.arange(len(found)) <= last[found.labels])
        truths = np.zeros((truth.image_count, num_classes), np.int32)
        np.add.at(truths, (truth.images[~truth.crowd], truth.labels[~truth.crowd]), 1)
        return cls(
            metric=metric,
            names=tuple(names),
            images=found.images[kept].astype(np.int32),
            labels=found.labels[kept].astype(np.int32),
            right=right[kept],
            truths=truths,
            recalls=recalls,
        )

    def __post_init__(self) -> None:
        if len(self.names) != len(self.truths):
            raise ValueError(f"truth is of {len(self.truths)} images, got {len(self.names)} names")

    @property
    def judging(self) -> Judging:
        truth = hashlib.sha256(f"{self.truths.shape}".encode() + self.truths.astype(np.int64).tobytes()).hexdigest()
        return Judging(metric=self.metric, names=self.names, truth=truth)

    def metrics_of(self, counts: FloatArray) -> FloatArray:
        truths = self.truths.T.astype(np.float64) @ counts
        starts = np.searchsorted(self.labels, np.arange(truths.shape[0] + 1))
        averages = np.array(
            [
                self._average_precision(slice(begin, end), total, counts)
                for (begin, end), total in zip(pairwise(starts.tolist()), truths, strict=True)
            ]
        ).reshape(truths.shape)
        known = truths > 0
        some = np.maximum(np.count_nonzero(known, axis=0), 1)
        return np.where(known.any(axis=0), np.where(known, averages, 0).sum(axis=0) / some, NAN)

    def _average_precision(self, of_class: slice, truths: FloatArray, counts: FloatArray) -> FloatArray:
        """Of one class, draw by draw; 0 where nothing is true."""
        images, right = self.images[of_class], self.right[of_class]
        averages = np.zeros(len(truths))
        width = max(1, _BLOCK // max(1, len(images)))
        for begin in range(0, len(truths) if len(images) else 0, width):
            draws = slice(begin, begin + width)
            averages[draws] = self._area(images, right, np.maximum(truths[draws], 1), counts[:, draws])
        return averages

    def _area(self, images: NDArray[np.int32], right: BoolArray, truths: FloatArray, counts: FloatArray) -> FloatArray:
        """Under the envelope of precision over recall; the last object is a right one.

        A row for each right object, with the wrong ones before it. One that is not drawn has no share, and its
        precision, below that of the one before it, raises no envelope that counts.
        """
        ends = np.flatnonzero(right) + 1
        own = counts[images[right]]
        hits = np.cumsum(own, axis=0)
        places = np.cumsum(np.add.reduceat(counts[images], np.append(0, ends[:-1]), axis=0), axis=0)
        precision = np.divide(hits, places, out=np.zeros_like(hits), where=places > 0)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        if len(self.recalls):
            reached = np.where(hits > 0, np.searchsorted(self.recalls, hits / truths, side="right"), 0)
            own, truths = np.diff(reached, axis=0, prepend=0).astype(np.float64), np.array(len(self.recalls))
        area: FloatArray = (envelope * own).sum(axis=0) / truths
        return area

    def arrays(self) -> Arrays:
        return {
            "images": self.images,
            "labels": self.labels,
            "right": self.right,
            "truths": self.truths,
            "recalls": self.recalls,
        }


_KINDS: Mapping[str, type[PerImage]] = {kind.kind: kind for kind in (ImageValues, ImageObjects)}


def of_judged(judged: Judged, verdicts: Verdicts) -> ImageObjects | None:
    """Of what was found last in a labelled set, by the rule that its `mean_average_precision` has; None without one."""
    names = [judged.images.name(index) for index in judged.indices]
    truth, found = judged.true_objects(), judged.found_objects(verdicts.lowest_score)
    if "voc" in verdicts.metric_type:
        return ImageObjects.voc(names, truth, found, len(verdicts.classes), iou_threshold=verdicts.iou_threshold)
    if "coco" in verdicts.metric_type:
        return ImageObjects.coco(names, truth, found, len(verdicts.classes))
    return None
