"""Several labels an image, from scratch, beside the baseline that gives every image every label.

python benchmarks/multilabel.py                                             # generated pictures of shapes
python benchmarks/multilabel.py $DATA/cards_multilabel/train.jsonl $DATA/cards_multilabel/validation.jsonl key=value ...
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import lightning_automl_vision as lav
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.settings import DataConfig

TASK = "image_classification_multilabel"
SIDE = 96
SHAPES = ("circle", "cross", "ring", "square")


def draw(shape: str, image: np.ndarray, place: tuple[int, int], random: np.random.Generator) -> None:
    x, y = place
    color = tuple(int(value) for value in random.integers(120, 256, 3))
    if shape == "circle":
        cv2.circle(image, (x, y), 14, color, -1, cv2.LINE_AA)
    elif shape == "ring":
        cv2.circle(image, (x, y), 14, color, 4, cv2.LINE_AA)
    elif shape == "square":
        cv2.rectangle(image, (x - 13, y - 13), (x + 13, y + 13), color, -1)
    else:
        cv2.line(image, (x - 14, y), (x + 14, y), color, 5, cv2.LINE_AA)
        cv2.line(image, (x, y - 14), (x, y + 14), color, 5, cv2.LINE_AA)


def generate(folder: Path, count: int, seed: int) -> Path:
    """Pictures with one to three shapes of four, in quarters of their own."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    lines = []
    for number in range(count):
        chosen = sorted(str(shape) for shape in random.choice(SHAPES, random.integers(1, 4), replace=False))
        image = random.integers(0, 70, (SIDE, SIDE, 3)).astype(np.uint8)
        for shape, quarter in zip(chosen, random.permutation(4), strict=False):
            place = (24 + 48 * int(quarter % 2), 24 + 48 * int(quarter // 2))
            draw(shape, image, place, random)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(json.dumps({"image_url": f"{number}.png", "label": chosen}))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "labels.jsonl"


def everything(validation: Path, classes: tuple[str, ...]) -> float:
    """The iou of giving every image every label."""
    images = read_labelled(str(validation), TASK, DataConfig(), classes=classes, role="validation")
    truth = np.zeros((len(images), len(classes)), np.int64)
    for row, sample in zip(truth, images.samples, strict=True):
        row[sample.target.labels] = 1
    scores = np.ones(truth.shape, np.float32)
    return classification_metrics(scores, truth, multilabel=True, classes=classes)["iou"]


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if arguments:
            training, validation = Path(arguments[0]), Path(arguments[1])
        else:
            training, validation = (
                generate(Path(folder) / name, n, n) for name, n in (("train", 600), ("validation", 200))
            )
        result = lav.train(
            experiment="multilabel_from_scratch",
            data={"training": training, "validation": validation},
            training={
                "random_seed": 1,
                "number_of_epochs": 15,
                **dict(argument.split("=") for argument in arguments[2:]),
            },
            output_dir=Path(folder) / "run",
        )
        classes = lav.load(result.folder).labels
        best = result.primary_metric
        print(f"\niou {best.value:.3f} in epoch {best.epoch}; every label: {everything(validation, classes):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
