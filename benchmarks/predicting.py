"""``lav predict`` beside its model alone: ``python benchmarks/predicting.py`` prints what all else costs.

On pictures it makes, with untrained models: decoding, resizing, the answer in words and the file are added to the
network, which alone is asked for the same prepared pictures in the same batches. Both take turns in one process, on the
threads that OMP_NUM_THREADS says or all cores; medians of wall seconds. The goal is 1.05.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from data_pipeline import write_photos

from lightning_automl_vision.answers_file import AnswersFile
from lightning_automl_vision.asking import Asking
from lightning_automl_vision.data.inputs import pictures_of
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.jobs.predict import Config
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import Predictor, batched, load
from lightning_automl_vision.settings import DataConfig

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet18": ("image_classification", {}, 16),
    "vitb16r224": ("image_classification", {}, 16),
    "yolov5": ("image_object_detection", {"model_size": "nano"}, 1),
    "fasterrcnn_resnet50_fpn": ("image_object_detection", {}, 1),
    "maskrcnn_resnet50_fpn": ("image_instance_segmentation", {}, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--models", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--batch-size", type=int, default=None)
    given = parser.parse_args()
    print(f"{given.pictures} pictures of {given.width}x{given.height}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", given.pictures, given.width, given.height)
        for model in given.models:
            task, parameters, usual = CASES[model]
            save(folder / model, model, task, **parameters)
            predictor = load(folder / model, accelerator=given.accelerator)
            compare(model, predictor, folder, given.batch_size or usual, given.rounds, given.accelerator)
            shutil.rmtree(folder / model)


def compare(name: str, predictor: Predictor, folder: Path, batch_size: int, rounds: int, accelerator: str) -> None:
    pictures = pictures_of(str(folder / "photos"), DataConfig())
    prepared = [predictor.prepared(predictor.picture(picture.image)) for picture in pictures]
    batches = [[picture.shown[0] for picture in batch] for batch in batched(prepared, batch_size)]

    def alone() -> None:
        for batch in batches:
            predictor.network(batch)

    def whole() -> None:
        output = folder / "out"
        config = Config(name="predict", input="photos", output=str(output), batch_size=batch_size)
        Asking(predictor=predictor, job=config, pictures=pictures, file=AnswersFile(folder=output)).run()
        shutil.rmtree(output)

    seconds: dict[str, list[float]] = {"alone": [], "whole": []}
    alone()
    whole()
    for _ in range(rounds):
        for case, run in (("alone", alone), ("whole", whole)):
            started = time.perf_counter()
            run()
            if accelerator != "cpu":
                torch.cuda.synchronize()
            seconds[case].append(time.perf_counter() - started)
    network, everything = (statistics.median(seconds[case]) / len(pictures) * 1e3 for case in ("alone", "whole"))
    line = {"model": name, "network_ms": network, "predict_ms": everything, "ratio": everything / network}
    print(
        f"{name:<28} network {network:8.2f} ms/image, predict {everything:8.2f} ms/image, {everything / network:.3f} x"
    )
    print(json.dumps({**line, "batch_size": batch_size, "rounds": seconds}))


def save(folder: Path, name: str, task: str, **parameters: Any) -> None:
    """An untrained model as a run leaves it, of ten classes."""
    torch.manual_seed(0)
    spec = model_spec(name)
    chosen = {**asdict(spec.config(name=name)), "pretrained": False, **parameters}
    chosen = {key: value for key, value in chosen.items() if key not in ("name", "weights")}
    model = spec.build_with(chosen, task=task, num_classes=10, image_size=224)
    classifies = task == "image_classification"
    card = ModelCard(
        task=task,
        name=name,
        parameters=chosen,
        image_size=224 if classifies else None,
        labels=[f"class {number}" for number in range(10)],
        settings={**(model.resizing or CenterCrop(256, 224)).as_settings(), **inference_settings(chosen)},
    )
    save_model(folder / "model", card, model)


if __name__ == "__main__":
    main()
