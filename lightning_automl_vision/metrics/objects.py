"""What is true and what was found in a labelled set, as flat arrays over all its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.masks import Mask
from lightning_automl_vision.metrics.extents import Extents, box_extents, mask_extents
from lightning_automl_vision.metrics.ranking import AnyScores
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, IntArray, ScoredBoxes

MasksByImage = Sequence[Sequence[Mask]]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """``images`` is the image each object lies in, counted from 0; its box is in pixels; masks, if given, overlap."""

    image_count: int
    images: IntArray
    labels: IntArray
    boxes: FloatArray
    masks: Sequence[Mask] | None = None

    def __post_init__(self) -> None:
        masks = self.images if self.masks is None else self.masks
        lengths = {len(self.images), len(self.labels), len(self.boxes), len(masks)}
        if len(lengths) > 1:
            raise ValueError(f"objects must have one image, label, box and mask each, got {sorted(lengths)} of them")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def extents(self) -> Extents:
        """Of the masks where there are any, else of the boxes."""
        return box_extents(self.boxes) if self.masks is None else mask_extents(self.masks)

    def groups(self, *, by_class: bool) -> IntArray:
        """One number for the objects that may be compared: those of an image, or of an image and a class."""
        return self.labels * self.image_count + self.images if by_class else self.images

    def chosen(self, order: NDArray[Any]) -> Self:
        """Some of the objects, by index or by yes and no."""
        indices = np.arange(len(self))[order]
        masks = None if self.masks is None else [self.masks[index] for index in indices.tolist()]
        return replace(
            self, images=self.images[indices], labels=self.labels[indices], boxes=self.boxes[indices], masks=masks
        )


@dataclass(frozen=True, kw_only=True)
class TrueObjects(Objects):
    """A crowd object stands for many: it need not be found, and what lies on it is not wrong."""

    crowd: BoolArray

    @classmethod
    def of(cls, targets: Sequence[Boxes], masks: MasksByImage | None = None) -> Self:
        """From the truth of each image, boxes in pixels."""
        return cls(
            image_count=len(targets),
            images=_image_of_each([len(target.labels) for target in targets]),
            labels=_joined([target.labels for target in targets], np.empty(0, np.int64)),
            boxes=_joined([target.boxes for target in targets], np.empty((0, 4))),
            masks=_chained(masks),
            crowd=_joined([target.crowd for target in targets], np.empty(0, np.bool_)),
        )

    def chosen(self, order: NDArray[Any]) -> Self:
        return replace(super().chosen(order), crowd=self.crowd[order])

    def counts(self, num_classes: int) -> IntArray:
        """How many of each class are to be found."""
        counts: IntArray = np.bincount(self.labels[~self.crowd], minlength=num_classes)
        return counts


@dataclass(frozen=True, kw_only=True)
class FoundObjects(Objects):
    scores: AnyScores

    @classmethod
    def of(cls, answers: Sequence[ScoredBoxes], masks: MasksByImage | None = None) -> Self:
        """From what was found in each image, boxes in pixels of the image."""
        return cls(
            image_count=len(answers),
            images=_image_of_each([len(answer.labels) for answer in answers]),
            labels=_joined([answer.labels for answer in answers], np.empty(0, np.int64)),
            boxes=_joined([answer.boxes for answer in answers], np.empty((0, 4))),
            masks=_chained(masks),
            scores=_joined([answer.scores for answer in answers], np.empty(0, np.float32)),
        )

    def chosen(self, order: NDArray[Any]) -> Self:
        return replace(super().chosen(order), scores=self.scores[order])

    def ranked(self) -> Self:
        """Class by class, best score first; equal scores in the order of the images, then in the order given."""
        return self.chosen(np.lexsort((self.images, -self.scores, self.labels)))

    def class_starts(self, num_classes: int) -> IntArray:
        """Where each class begins in a ranked set, and where the last one ends."""
        return np.searchsorted(self.labels, np.arange(num_classes + 1))


def check(truth: TrueObjects, found: FoundObjects, num_classes: int | None = None) -> None:
    """Refuses what cannot be compared."""
    if truth.image_count != found.image_count:
        raise ValueError(f"truth is of {truth.image_count} images, what was found is of {found.image_count}")
    if (truth.masks is None) != (found.masks is None):
        raise ValueError("masks must be given for the truth and for what was found, or for neither")
    for objects in (truth, found):
        labels = objects.labels
        if len(labels) and (labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes)):
            raise ValueError(f"labels must be in [0, {num_classes}), got {labels.min()} to {labels.max()}")


def _image_of_each(counts: Sequence[int]) -> IntArray:
    return np.repeat(np.arange(len(counts)), counts)


def _joined(parts: Sequence[NDArray[Any]], nothing: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else nothing


def _chained(masks: MasksByImage | None) -> Sequence[Mask] | None:
    return None if masks is None else list(chain.from_iterable(masks))
