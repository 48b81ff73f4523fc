"""A model judged through its `Predictor`, as users have it: with views, operating points, or without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.reading_ahead import read_ahead
from lightning_automl_vision.evaluation import evaluation_document
from lightning_automl_vision.judging import TILES, WHOLE, Judged, Verdicts
from lightning_automl_vision.metrics.average_precision import TWELVE
from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.operating_points import usual_threshold
from lightning_automl_vision.predictor import OpenedModel, Predictor, Prepared, batched
from lightning_automl_vision.run import write_json, write_lines
from lightning_automl_vision.samples import BoolArray, ScoredLabels, Scores
from lightning_automl_vision.search.per_image import PER_IMAGE, ImageValues, PerImage, of_judged
from lightning_automl_vision.task_settings import ObjectTaskConfig, TaskConfig

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.jsonl"
Watched = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Examination(ABC):
    """A labelled set and what a model said of it, image by image."""

    predictor: Predictor
    images: LabelledImages[Any]

    def ask(self, batch_size: int, watched: Watched = iter) -> None:
        """A picture that cannot be read is raised: it would be missing from every figure."""
        predictor = self.predictor

        def read(image: str) -> Prepared:
            return predictor.prepared(predictor.picture(image))

        ahead = 0 if predictor.tiling.cuts else 2 * batch_size
        pictures = read_ahead(read, (sample.image for sample in self.images.samples), ahead=ahead)
        for batch in watched(batched(enumerate(pictures), batch_size)):
            for _, content in batch:
                if isinstance(content, Exception):
                    raise content
            self._add([index for index, _ in batch], [content for _, content in batch])

    @abstractmethod
    def _add(self, indices: Sequence[int], pictures: Sequence[Prepared]) -> None: ...

    @abstractmethod
    def metrics(self) -> dict[str, float]: ...

    @abstractmethod
    def document(self) -> dict[str, Any]: ...

    @abstractmethod
    def answers(self) -> Iterator[dict[str, Any]]: ...

    @abstractmethod
    def per_image(self) -> PerImage | None: ...


@dataclass(frozen=True, kw_only=True)
class LabelsExamination(Examination):
    multilabel: bool
    said: list[ScoredLabels] = field(default_factory=list)

    def _add(self, indices: Sequence[int], pictures: Sequence[Prepared]) -> None:
        self.said.extend(self.predictor.answer_prepared(pictures))

    @property
    def scores(self) -> Scores:
        return np.stack([answer.scores for answer in self.said])

    @property
    def truth(self) -> NDArray[Any]:
        """N class indices, or N x C zeros and ones."""
        targets = [sample.target.labels for sample in self.images.samples]
        if not self.multilabel:
            return np.array([int(labels[0]) for labels in targets], dtype=np.int64)
        ones = np.zeros((len(targets), len(self.predictor.labels)), dtype=np.float32)
        for row, labels in zip(ones, targets, strict=True):
            row[labels] = 1
        return ones

    @property
    def predicted(self) -> BoolArray | None:
        """What operating points decide for, where they are in use."""
        if self.predictor.points is None:
            return None
        chosen = np.zeros((len(self.said), len(self.predictor.labels)), dtype=np.bool_)
        for row, answer in zip(chosen, self.said, strict=True):
            row[list(answer.decided or ())] = True
        return chosen

    @property
    def _judged(self) -> dict[str, Any]:
        return {"multilabel": self.multilabel, "classes": self.predictor.labels, "predicted": self.predicted}

    def metrics(self) -> dict[str, float]:
        return classification_metrics(self.scores, self.truth, **self._judged)

    def document(self) -> dict[str, Any]:
        return evaluation_document(self.scores, self.truth, **self._judged)

    def answers(self) -> Iterator[dict[str, Any]]:
        yield from label_answers(self.images, self.said, self.truth, self.predictor.labels)

    def per_image(self) -> PerImage:
        names = [self.images.name(index) for index in range(len(self.images))]
        kind = ImageValues.iou if self.multilabel else ImageValues.accuracy
        return kind(names, self.scores, self.truth, self.predictor.labels, self.predicted)


@dataclass(frozen=True, kw_only=True)
class ObjectsExamination(Examination):
    judged: Judged
    verdicts: Verdicts

    def _add(self, indices: Sequence[int], pictures: Sequence[Prepared]) -> None:
        predictor = self.predictor
        if predictor.tiling.cuts and predictor.points is None:
            for index, parts in zip(indices, predictor.parts(pictures), strict=True):
                self.judged.add_windows(index, parts)
            return
        for index, answer in zip(indices, predictor.answer_prepared(pictures), strict=True):
            self.judged.keep(index, answer)

    def metrics(self) -> dict[str, float]:
        return {**self.verdicts.metrics(self.judged), **self.verdicts.apart(self.judged)}

    def document(self) -> dict[str, Any]:
        return self.verdicts.document(self.judged)

    def answers(self) -> Iterator[dict[str, Any]]:
        return self.verdicts.answers(self.judged)

    def per_image(self) -> PerImage | None:
        return of_judged(self.judged, self.verdicts)


def examination_of(predictor: Predictor, images: LabelledImages[Any], judged_by: TaskConfig) -> Examination:
    """Nothing is asked yet. With operating points in use, what they let through is what is judged."""
    if not isinstance(judged_by, ObjectTaskConfig):
        multilabel = predictor.card.task == "image_classification_multilabel"
        return LabelsExamination(predictor=predictor, images=images, multilabel=multilabel)
    with_masks = predictor.card.task == "image_instance_segmentation"
    verdicts = Verdicts(
        classes=predictor.labels,
        metric_type=judged_by.validation_metric_type,
        iou_threshold=judged_by.validation_iou_threshold,
        box_score_threshold=usual_threshold(predictor.card) if predictor.points is None else 0.0,
        score_floor=judged_by.metric_score_floor if predictor.points is None else None,
    )
    judged = Judged.of(images, with_masks=with_masks, tiling=predictor.tiling)
    return ObjectsExamination(predictor=predictor, images=images, judged=judged, verdicts=verdicts)


def metric_names(opened: OpenedModel, judged_by: TaskConfig, *, calibrated: bool) -> set[str]:
    """What there will be a figure of; ``calibrated`` where operating points are obeyed that are in use."""
    if not isinstance(judged_by, ObjectTaskConfig):
        several, classes = opened.card.task == "image_classification_multilabel", opened.card.labels
        scores = np.full((1, len(classes)), 1 / len(classes))
        truth = np.zeros_like(scores) if several else np.zeros(1, dtype=np.int64)
        return {*classification_metrics(scores, truth, multilabel=several, classes=classes)}
    names = {"mean_average_precision"}
    if "coco" in judged_by.validation_metric_type:
        names |= {*TWELVE}
    if "voc" in judged_by.validation_metric_type:
        names |= {"precision", "recall"}
    if opened.tiling.cuts and not (calibrated and opened.points is not None):
        names |= {f"{name}_mean_average_precision" for name in (TILES, WHOLE)}
    return names


def label_answers(
    images: LabelledImages[Any], said: Iterable[ScoredLabels], truth: NDArray[Any], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What was said of each image, as JSON, beside the true labels."""
    for index, (answer, labels) in enumerate(zip(said, truth, strict=True)):
        indices = np.flatnonzero(labels).tolist() if truth.ndim == 2 else (int(labels),)
        names = [classes[label] for label in indices]
        yield {"filename": images.name(index), **replace(answer, labels=tuple(classes)).as_dict(), "true_labels": names}


def write_report(
    folder: Path, document: Mapping[str, Any], answers: Iterable[Mapping[str, Any]], per_image: PerImage | None
) -> None:
    """What explains a model on labelled images, in the files that a training writes."""
    write_json(folder / EVALUATION, document)
    write_lines(folder / PREDICTIONS, answers)
    if per_image is not None:
        per_image.save(folder / PER_IMAGE)


def with_bar(batches: Iterable[Any]) -> Iterator[Any]:
    """On a terminal, how far an evaluation is."""
    from tqdm import tqdm

    yield from tqdm(batches, unit="batch", disable=None, leave=False, dynamic_ncols=True)
