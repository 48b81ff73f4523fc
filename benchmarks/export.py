"""Exported networks beside eager PyTorch: resnet18, yolov5 nano, Faster R-CNN, in ONNX Runtime and OpenVINO.

    OMP_NUM_THREADS=1 python benchmarks/export.py [--rounds 10] [--small]

Prepared pictures to predictions, suppression of boxes included, on one thread and in turn; the least CPU milliseconds
of an answer. `eager` is the network as it is trained, `torch` what `load` makes of it. The networks are untrained, so
that little is found. Goals, over eager: 1.3 times as quick for resnet18 and yolov5, 1.15 times for Faster R-CNN.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lightning_automl_vision.data.batching import no_targets
from lightning_automl_vision.data.module import padded
from lightning_automl_vision.export.folder import write_folder
from lightning_automl_vision.export.formats import Options
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.models import Batch
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import load, open_model
from lightning_automl_vision.samples import Pixels

CLASSIFICATION, DETECTION = "image_classification", "image_object_detection"
# The model, its task and keys, and height and width of a picture, usual and small.
CASES: tuple[tuple[str, str, dict[str, Any], tuple[int, int], tuple[int, int]], ...] = (
    ("resnet18", CLASSIFICATION, {}, (224, 224), (64, 64)),
    ("yolov5", DETECTION, {"model_size": "nano"}, (480, 640), (96, 128)),
    ("fasterrcnn_resnet50_fpn", DETECTION, {}, (600, 800), (96, 128)),
)
FORMATS = ("onnx", "openvino")
CLASSES = 20


def write_model(folder: Path, name: str, task: str, given: dict[str, Any], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spec = model_spec(name)
    usual = {key: value for key, value in asdict(spec.config(name=name)).items() if key not in ("name", "weights")}
    parameters = {**usual, "pretrained": False, **given}
    model = spec.build_with(parameters, task=task, num_classes=CLASSES, image_size=size[0])
    crop = {"resize": "crop", "valid_resize_size": size[0], "valid_crop_size": size[0]}
    settings = crop if model.resizing is None else model.resizing.as_settings()
    card = ModelCard(
        task=task,
        name=name,
        parameters=parameters,
        labels=[str(number) for number in range(CLASSES)],
        settings={**settings, **inference_settings(parameters)},
        image_size=size[0] if model.resizing is None else None,
    )
    save_model(folder, card, model)


def eager(folder: Path) -> Callable[[Sequence[Pixels]], Any]:
    """The model without what makes it quick."""
    model = open_model(folder).build()

    def network(pictures: Sequence[Pixels]) -> Any:
        images, sizes = padded(pictures)
        batch: Batch[Any] = Batch(images=images, targets=no_targets(1), keys=[""], sizes=sizes)
        with torch.inference_mode():
            return model.predict(batch)

    return network


def least(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    best = [float("inf")] * len(calls)
    for number in range(rounds + 1):
        for index, call in enumerate(calls):
            started = time.process_time()
            call()
            if number:  # the first round warms up
                best[index] = min(best[index], time.process_time() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="small pictures, to see that it works")
    arguments = parser.parse_args()
    sides = ("eager", "torch", *FORMATS)
    print(f"{'':26}{''.join(f'{side:>12}' for side in sides)}   times as quick as eager")
    for name, task, given, usual, small in CASES:
        size = small if arguments.small else usual
        with TemporaryDirectory() as place:
            folder = Path(place) / "model"
            write_model(folder, name, task, given, size)
            for format in FORMATS:
                (Path(place) / format).mkdir()
                write_folder(open_model(folder), format, Options(), Path(place) / format)
            networks = [eager(folder), *(load(Path(place) / part).network for part in ("model", *FORMATS))]
            picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
            seconds = least([partial(network, [picture]) for network in networks], arguments.rounds)
        ratios = ", ".join(f"{seconds[0] / other:.2f}" for other in seconds[1:])
        figures = "".join(f"{1000 * value:10.1f}ms" for value in seconds)
        print(f"{f'{name} {size[1]} x {size[0]}':26}{figures}   {ratios}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
