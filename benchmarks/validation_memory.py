"""What the metrics of instance segmentation hold in memory while a validation runs.

    python benchmarks/validation_memory.py [--images 100] [--objects 100] [--side 1333]

A model that answers at once, with shapes and boxes as a Mask R-CNN gives them, is validated by the segmentation task as
in a run, batch by batch; beside it the same loop forgets each answer. Peak memory of a process of its own for each.
Goal: at most 500 MB more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from lightning_automl_vision.data.batching import no_targets
from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.models import Batch, Detector, MaskTargets
from lightning_automl_vision.samples import Masks, Place, Sample, ScoredMasks
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.tasks.objects import SegmentationTask

CLASSES = ("a", "b", "c")
GRID = 28


class Ready(Detector[MaskTargets, ScoredMasks]):
    """Answers with discs near the true ones."""

    def __init__(self, truth: list[Masks], side: int) -> None:
        super().__init__()
        self.box_score_threshold = 0.05
        self.truth, self.side = truth, side
        y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) / GRID - 0.5
        self.disc = np.clip(0.5 + (0.5 - np.hypot(x, y)) * 14, 0, 1).astype(np.float32)

    def losses(self, batch: Batch[MaskTargets]) -> dict[str, torch.Tensor]:
        return {}

    def predict(self, batch: Batch[MaskTargets]) -> list[ScoredMasks]:
        return [self._found(index) for index in batch.indices]

    def _found(self, index: int) -> ScoredMasks:
        random, target = np.random.default_rng(index), self.truth[index]
        boxes = target.boxes * self.side + random.normal(0, 4, target.boxes.shape)
        count = len(boxes)
        return ScoredMasks(
            labels=target.labels,
            boxes=boxes,
            scores=np.sort(random.uniform(0.1, 1, count).astype(np.float32))[::-1],
            width=self.side,
            height=self.side,
            shapes=np.repeat(self.disc[None], count, axis=0),
        )


def truth_of(number: int, objects: int) -> Masks:
    random = np.random.default_rng(1000 + number)
    corners = random.uniform(0, 0.85, (objects, 2))
    boxes = np.hstack([corners, corners + random.uniform(0.03, 0.15, (objects, 2))])
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = 0.5 + 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    polygons = tuple((box[:2] + circle * (box[2:] - box[:2]),) for box in boxes)
    labels = random.integers(0, len(CLASSES), objects)
    return Masks(labels=labels, boxes=boxes, crowd=np.zeros(objects, np.bool_), polygons=polygons)


def validate(images: int, objects: int, side: int, *, with_metrics: bool) -> None:
    truth = [truth_of(number, objects) for number in range(images)]
    samples = [Sample(image=f"{number}.jpg", target=target) for number, target in enumerate(truth)]
    headers = [ImageHeader(side, side)] * images
    labelled = LabelledImages(samples=samples, classes=CLASSES, source="generated", headers=headers)
    settings = ObjectTaskConfig(
        name="image_instance_segmentation",
        primary_metric="mean_average_precision",
        validation_metric_type="coco_voc",
    )
    task = SegmentationTask(Ready(truth, side), TrainingConfig(layers_to_freeze=0, ema_decay=0.0), CLASSES, settings)
    if with_metrics:
        task.judge(labelled)
    before, started = peak(), time.process_time()
    for index in range(images):
        pictures = torch.zeros((1, 3, side, side), dtype=torch.uint8)
        place = Place(0, 0, side, side)
        batch = Batch(images=pictures, targets=no_targets(1), keys=[""], indices=[index], places=[place])
        answers = task.answer(task.model, batch)  # type: ignore[arg-type]
        if with_metrics:
            task.collect(answers, batch)  # type: ignore[arg-type]
    metrics = task.compute() if with_metrics else {}
    seconds = time.process_time() - started
    average = metrics.get("mean_average_precision", float("nan"))
    print(f"{peak():.0f} {seconds:.2f} {before:.0f} {average:.3f}")


def peak() -> float:
    """MB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("images", 100), ("objects", 100), ("side", 1333)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--case")
    asked = parser.parse_args()
    if asked.case:
        validate(asked.images, asked.objects, asked.side, with_metrics=asked.case == "metrics")
        return
    found = {}
    for case in ("plain", "metrics"):
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        found[case] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    plain, metrics = (float(found[case][0]) for case in ("plain", "metrics"))
    print(
        f"{asked.images} images of {asked.side} pixels with {asked.objects} objects: the loop alone {plain:.0f} MB,"
        f" with VOC and COCO metrics of masks {metrics:.0f} MB: {metrics - plain:+.0f} MB,"
        f" {found['metrics'][1]} s of CPU (mean average precision {found['metrics'][3]})"
    )


if __name__ == "__main__":
    main()
