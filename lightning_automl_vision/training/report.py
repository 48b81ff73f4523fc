"""What a model is explained with on labelled images, as files: after a training, of all folds, of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.run import write_json, write_lines
from lightning_automl_vision.samples import ScoredLabels
from lightning_automl_vision.search.comparing import interval_of, resample
from lightning_automl_vision.search.per_image import PER_IMAGE, PerImage
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.classification import ClassificationTask

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.jsonl"


def write_report(
    folder: Path, task: VisionTask[Any, Any], images: LabelledImages[Any], more: Mapping[str, Any]
) -> PerImage | None:
    """Of the task's last evaluation, which was of these images; gives what it left of each of them."""
    write_json(folder / EVALUATION, {**task.document(), **more})
    write_lines(folder / PREDICTIONS, answers_of(task, images))
    per_image = task.per_image(images)
    if per_image is not None:
        per_image.save(folder / PER_IMAGE)
    return per_image


def answers_of(task: VisionTask[Any, Any], images: LabelledImages[Any]) -> Iterator[dict[str, Any]]:
    """The predictions of that evaluation, image by image, as JSON; of a classifier beside the true labels."""
    if not isinstance(task, ClassificationTask):
        yield from task.answers()
        return
    for index, (scores, truth) in enumerate(zip(task.scores, task.labels, strict=True)):
        names = [task.classes[label] for label in (np.flatnonzero(truth) if task.multilabel else (int(truth),))]
        answer = ScoredLabels(scores=scores, labels=task.classes).as_dict()
        yield {"filename": images.name(index), **answer, "true_labels": names}


def interval_in(per_image: PerImage | None) -> list[float] | None:
    """Where the primary metric would lie with other images of the same kind; None where they do not tell."""
    return None if per_image is None else list(interval_of(resample([per_image])[0]))
