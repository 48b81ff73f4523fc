"""Exported networks beside eager PyTorch: resnet18, yolov5 small, Faster R-CNN, in ONNX Runtime and OpenVINO.

    OMP_NUM_THREADS=1 python benchmarks/export.py [--rounds 10] [--small] [--only resnet18]

Prepared pictures to predictions, suppression of boxes included, on one thread and in turn; the least CPU milliseconds
of an answer, and how many times as quick as `eager` each other side is. `eager` is the network as it is trained,
`torch` what `load` makes of it. The networks are untrained, so that little is found. The goals are ONNX Runtime's: 1.3
times as quick for resnet18 and yolov5, 1.15 times for Faster R-CNN.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from yolov5_prediction import least

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
FORMATS = ("onnx", "openvino")
SIDES = ("eager", "torch", *FORMATS)
CLASSES = 20


@dataclass(frozen=True)
class Case:
    """Height and width of a picture, usual and small; ``goal`` is how many times as quick ONNX Runtime is to be."""

    name: str
    task: str
    given: dict[str, Any]
    usual: tuple[int, int]
    small: tuple[int, int]
    goal: float


CASES = (
    Case("resnet18", CLASSIFICATION, {}, (224, 224), (64, 64), 1.3),
    Case("yolov5", DETECTION, {"model_size": "small"}, (480, 640), (96, 128), 1.3),
    Case("fasterrcnn_resnet50_fpn", DETECTION, {}, (600, 800), (96, 128), 1.15),
)


def write_model(folder: Path, case: Case, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spec = model_spec(case.name)
    usual = {key: value for key, value in asdict(spec.config(name=case.name)).items() if key not in ("name", "weights")}
    parameters = {**usual, "pretrained": False, **case.given}
    model = spec.build_with(parameters, task=case.task, num_classes=CLASSES, image_size=size[0])
    crop = {"resize": "crop", "valid_resize_size": size[0], "valid_crop_size": size[0]}
    settings = crop if model.resizing is None else model.resizing.as_settings()
    card = ModelCard(
        task=case.task,
        name=case.name,
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


def measured(case: Case, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """The seconds of an answer by side."""
    with TemporaryDirectory() as name:
        place = Path(name)
        write_model(place / "model", case, size)
        for format in FORMATS:
            (place / format).mkdir()
            write_folder(open_model(place / "model"), format, Options(), place / format)
        networks = [eager(place / "model"), *(load(place / part).network for part in ("model", *FORMATS))]
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        seconds = least([partial(network, [picture]) for network in networks], rounds)
    return dict(zip(SIDES, seconds, strict=True))


def row(case: Case, size: tuple[int, int], seconds: dict[str, float]) -> str:
    ratios = {side: seconds["eager"] / value for side, value in seconds.items()}
    cells = (f"{1000 * seconds[side]:8.1f} ms {ratios[side]:5.2f} x" for side in SIDES)
    reached = "reached" if ratios["onnx"] >= case.goal else "missed"
    return f"{f'{case.name} {size[1]} x {size[0]}':34}{''.join(cells)}   {case.goal} x {reached}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="small pictures, to see that it works")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one model")
    arguments = parser.parse_args()
    print(f"{'':34}{''.join(f'{side:>19}' for side in SIDES)}   goal of onnx")
    for case in CASES:
        if arguments.only in (None, case.name):
            size = case.small if arguments.small else case.usual
            print(row(case, size, measured(case, size, arguments.rounds)), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
