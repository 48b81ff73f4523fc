"""Average precision of answers as the reference of yolov5 computes it, to compare with published figures like for like.

    lav predict RUN input=DATA/test.jsonl output=answers
    python benchmarks/reference_scores.py DATA/test.jsonl answers/predictions.jsonl

For figures like published ones, set box_score_thresh to 0.001 in RUN/model/settings.json first. Boxes are compared as
shares of their image times its size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lav_yolov5.scores import OVERLAPS, matched, scored
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.samples import SIDES, Place
from lightning_automl_vision.settings import DataConfig


def main(labels: Path, answers: Path) -> None:
    images = read_labelled(str(labels), "image_object_detection", DataConfig())
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(images), f"{len(lines)} answers for {len(images)} images"
    parts = [
        _one_image(sample.target, header, line, images.classes)
        for sample, header, line in zip(images.samples, images.headers, lines, strict=True)
    ]
    right, scores, found, true = (np.concatenate(values) for values in zip(*parts, strict=True))
    result = scored(right, scores, found, true)
    print(f"mAP50 {result.map_50:.3f}, mAP50-95 {result.map_50_95:.3f} on {len(images)} images")


def _one_image(target: Any, header: Any, line: Any, classes: tuple[str, ...]) -> tuple[Any, Any, Any, Any]:
    truth = target.placed(Place(0, 0, header.width, header.height))
    size = np.array([header.width, header.height] * 2)
    boxes = np.array([[box["box"][side] for side in SIDES] for box in line["boxes"]]).reshape(-1, 4) * size
    scores = np.array([box["score"] for box in line["boxes"]])
    found = np.array([classes.index(box["label"]) for box in line["boxes"]], dtype=np.int64)
    right = matched(truth.labels, truth.boxes, found, boxes, OVERLAPS)
    return right, scores, found, truth.labels


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
