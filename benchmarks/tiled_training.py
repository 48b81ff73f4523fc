"""What tiles are worth: ``python benchmarks/tiled_training.py`` trains with and without, and judges whole images.

Both trainings show the network as many pictures: without tiles there are as many more epochs as an image has windows.
The model that was trained without tiles is also asked with them. Average precision at an overlap of 0.5 of each, and
the differences, have 95 % intervals from the paired bootstrap over the validation images.

By default on generated pictures of 2048 x 2048 pixels with discs and squares of 8 to 16 pixels; with ``--training`` and
``--validation`` on labelled images, and with ``--label`` of one class.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightning_automl_vision import load, train
from lightning_automl_vision.data.labelled import LabelledImages, read_labelled
from lightning_automl_vision.judging import Judged
from lightning_automl_vision.metrics.average_precision import voc
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.metrics.resampling import interval, resampled
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.samples import Boxes, IntArray, Place, ScoredBoxes
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.tiling import GridTiler, parse_grid
from lightning_automl_vision.tiling_plan import Tiling

TASK = "image_object_detection"
SIDE, SIZES, OBJECTS = 2048, (8, 17), (10, 30)
COLOURS = {"disc": (235, 80, 50), "square": (50, 90, 235)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data and runs are written")
    parser.add_argument("--training", help="labelled images; without them pictures are generated")
    parser.add_argument("--validation")
    parser.add_argument("--label", help="judge this class alone")
    parser.add_argument("--grid", default="6x6")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=6, help="with tiles; without there are as many more")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.training is None:
        arguments.training, arguments.validation = (
            str(generated(folder / name, count, seed))
            for name, count, seed in (("training", 20, 1), ("validation", 20, 2))
        )
    grid = parse_grid(arguments.grid)
    assert grid is not None
    windows = grid[0] * grid[1] + 1
    tiles = {"name": "grid", "grid_size": arguments.grid}
    trained = {
        "without": run(arguments, folder / "without", arguments.epochs * windows, {"name": "none"}),
        "with": run(arguments, folder / "with", arguments.epochs, tiles),
    }
    tiling = Tiling(tiler=GridTiler(grid))
    asked = {
        "no tiles": trained["without"],
        "asked with tiles": replace(trained["without"], tiling=tiling),
        "trained and asked with tiles": trained["with"],
    }
    images = read_labelled(arguments.validation, TASK, DataConfig())
    report(images, {name: judged(images, predictor) for name, predictor in asked.items()}, arguments.label)


def run(arguments: argparse.Namespace, folder: Path, epochs: int, tiler: Mapping[str, Any]) -> Predictor:
    if not (folder / "result.json").exists():
        started = time.monotonic()
        train(
            experiment="yolov5_from_scratch",
            model={"model_size": "nano", "image_size": arguments.image_size, "box_score_threshold": 0.01},
            data={"training": arguments.training, "validation": arguments.validation},
            training={
                "number_of_epochs": epochs,
                "evaluation_frequency": epochs,
                "early_stopping": False,
                "number_of_workers": 0,
                "random_seed": arguments.seed,
            },
            tiler=tiler,
            output_dir=str(folder),
            quiet=True,
        )
        print(f"{folder.name} tiles: {epochs} epochs in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    return load(folder)


def judged(images: LabelledImages[Boxes], predictor: Predictor) -> Judged:
    found = Judged.of(images, with_masks=False)
    for index, (sample, header) in enumerate(zip(images.samples, images.headers, strict=True)):
        (answer,) = predictor.predict([sample.image])
        found.add(index, known(answer, images.classes), Place(0, 0, header.width, header.height))
    return found


def known(answer: ScoredBoxes, classes: Sequence[str]) -> ScoredBoxes:
    """With the numbers of the data set's classes."""
    return replace(answer, labels=np.array([classes.index(name) for name in answer.names], dtype=np.int64))


def report(images: LabelledImages[Boxes], answers: Mapping[str, Judged], label: str | None) -> None:
    number = None if label is None else images.classes.index(label)

    def figures(drawn: IntArray) -> tuple[float, ...]:
        return tuple(average_precision(answer, drawn, number, len(images.classes)) for answer in answers.values())

    values = figures(np.arange(len(images)))
    samples = resampled(figures, len(images))
    what = "mAP" if label is None else f"AP of {label}"
    for index, (name, value) in enumerate(zip(answers, values, strict=True)):
        print(f"{name}: {what} at 0.5 {value:.3f} ({interval(samples[:, index])})")
        if index:
            gain = interval(samples[:, index] - samples[:, 0])
            print(f"  {value - values[0]:+.3f} over no tiles ({gain})")


def average_precision(answer: Judged, drawn: IntArray, number: int | None, classes: int) -> float:
    truth = TrueObjects.of([answer.truth[index] for index in drawn])
    found = FoundObjects.of([answer.found[index].objects for index in drawn])
    metrics = voc(truth, found, classes, iou_threshold=0.5)
    return metrics.mean_average_precision if number is None else metrics.rows[number].average_precision


def generated(folder: Path, count: int, seed: int) -> Path:
    """Small discs and squares on a soft ground with noise."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        ground = random.integers(70, 150, (SIDE // 64, SIDE // 64, 3), dtype=np.uint8)
        pixels = cv2.resize(ground, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        labels = []
        for left, top, size, name in drawn_objects(random):
            shape = np.zeros((size, size), np.uint8)
            if name == "disc":
                cv2.circle(shape, (size // 2, size // 2), size // 2, 1, -1)
            else:
                shape[:] = 1
            pixels[top : top + size, left : left + size][shape > 0] = COLOURS[name]
            corners = np.array([left, top, left + size, top + size]) / SIDE
            labels.append({"label": name, **dict(zip(("topX", "topY", "bottomX", "bottomY"), corners, strict=True))})
        pixels = (pixels + random.normal(0, 14, pixels.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels[..., ::-1])
        lines.append(json.dumps({"image_url": f"{number}.jpg", "label": labels}))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "labels.jsonl"


def drawn_objects(random: np.random.Generator) -> list[tuple[int, int, int, str]]:
    count = random.integers(*OBJECTS)
    sizes, kinds = random.integers(*SIZES, count), random.choice(list(COLOURS), count)
    places = random.integers(0, SIDE - SIZES[1], (count, 2))
    return [
        (int(left), int(top), int(size), str(kind))
        for (left, top), size, kind in zip(places, sizes, kinds, strict=True)
    ]


if __name__ == "__main__":
    main()
