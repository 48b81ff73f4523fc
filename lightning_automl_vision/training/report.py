"""What a model is explained with on labelled images, as files: after a training, of all folds, of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_automl_vision import examination
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.samples import ScoredLabels
from lightning_automl_vision.search.comparing import interval_of, resample
from lightning_automl_vision.search.per_image import PerImage
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.classification import ClassificationTask


def write_report(
    folder: Path, task: VisionTask[Any, Any], images: LabelledImages[Any], more: Mapping[str, Any]
) -> PerImage | None:
    """Of the task's last evaluation, which was of these images; gives what it left of each of them."""
    per_image = task.per_image(images)
    examination.write_report(folder, {**task.document(), **more}, answers_of(task, images), per_image)
    return per_image


def answers_of(task: VisionTask[Any, Any], images: LabelledImages[Any]) -> Iterator[dict[str, Any]]:
    """The predictions of that evaluation, image by image, as JSON; of a classifier beside the true labels."""
    if not isinstance(task, ClassificationTask):
        yield from task.answers()
        return
    said = (ScoredLabels(scores=scores) for scores in task.scores)
    yield from examination.label_answers(images, said, task.labels, task.classes)


def interval_in(per_image: PerImage | None) -> list[float] | None:
    """Where the primary metric would lie with other images of the same kind; None where they do not tell."""
    return None if per_image is None else list(interval_of(resample([per_image])[0]))
