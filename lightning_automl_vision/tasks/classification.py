"""Multi-class and multi-label classification: scores are collected, metrics computed over all images at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.batching import Truth, class_targets, indicator_targets
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.evaluation import evaluation_document
from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.models import Batch, Targets
from lightning_automl_vision.samples import ScoredLabels, Scores
from lightning_automl_vision.search.per_image import ImageValues, PerImage
from lightning_automl_vision.tasks.base import Part, VisionTask
from lightning_automl_vision.training.gathering import gathered, is_connected, is_first, told


class ClassificationTask(VisionTask[Targets, ScoredLabels]):
    """``scores`` and ``labels`` are those of the last ``compute``; after a training, of its best evaluation."""

    multilabel: ClassVar[bool]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._scores: list[Scores] = []
        self._labels: list[NDArray[Any]] = []
        self._indices: list[int] = []
        self.scores, self.labels = self._empty()
        self._kept = (self.scores, self.labels)

    @property
    def truth(self) -> Truth:
        return partial(indicator_targets, num_classes=len(self.classes)) if self.multilabel else class_targets

    def collect(self, predictions: Sequence[ScoredLabels], batch: Batch[Targets], loader: int = 0) -> None:
        self._scores.extend(prediction.scores for prediction in predictions)
        self._labels.append(batch.targets.labels.cpu().numpy())
        self._indices.extend(batch.indices)

    def compute(self) -> dict[str, float]:
        self.scores, self.labels = self._collected()
        self._scores, self._labels, self._indices = [], [], []
        return told(self._metrics() if is_first() else {})

    def _metrics(self) -> dict[str, float]:
        return classification_metrics(self.scores, self.labels, multilabel=self.multilabel, classes=self.classes)

    def _collected(self) -> tuple[Scores, NDArray[Any]]:
        """In the order in which they came, or where several processes have them, in that of the data."""
        if not is_connected():
            return np.stack(self._scores), np.concatenate(self._labels)
        labels = [label for part in self._labels for label in part]
        found = gathered(dict(zip(self._indices, zip(self._scores, labels, strict=True), strict=True)))
        if not found:
            return self._empty()
        scores, truth = zip(*(found[index] for index in sorted(found)), strict=True)
        return np.stack(scores), np.stack(truth)

    def _empty(self) -> tuple[Scores, NDArray[Any]]:
        return np.empty((0, len(self.classes)), np.float32), np.empty(0, np.int64)

    def document(self) -> dict[str, Any]:
        return evaluation_document(self.scores, self.labels, multilabel=self.multilabel, classes=self.classes)

    def per_image(self, images: LabelledImages[Any]) -> PerImage:
        names = [images.name(index) for index in range(len(images))]
        kind = ImageValues.iou if self.multilabel else ImageValues.accuracy
        return kind(names, self.scores, self.labels, self.classes)

    def left(self) -> tuple[Scores, NDArray[Any]]:
        return self.scores, self.labels

    def pool(self, images: LabelledImages[Any], parts: Sequence[Part]) -> dict[str, float]:
        order = np.argsort(np.concatenate([indices for indices, _ in parts]))
        self._scores = list(np.concatenate([scores for _, (scores, _) in parts])[order])
        self._labels = [np.concatenate([labels for _, (_, labels) in parts])[order]]
        self.scores, self.labels = np.stack(self._scores), np.concatenate(self._labels)
        self._scores, self._labels = [], []
        return self._metrics()

    def keep_evaluation(self) -> None:
        self._kept = (self.scores, self.labels)

    def recall_evaluation(self) -> None:
        self.scores, self.labels = self._kept
        self._scores, self._labels, self._indices = [], [], []


class MulticlassTask(ClassificationTask):
    primary_metric = "accuracy"
    multilabel = False


class MultilabelTask(ClassificationTask):
    primary_metric = "iou"
    multilabel = True
