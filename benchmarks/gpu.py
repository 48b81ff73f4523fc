"""What an accelerator does with a training of each task: images a second, its idle share, memory, and what options do.

    python benchmarks/gpu.py [--steps 30] [--options 32-true bf16-mixed channels_last compile] [--cases ...]

`images/s` is of the real trainer with its own loader and callbacks, after warm-up. `idle` is the share of that time in
which the device has nothing to do: what a step takes longer than on a batch that lies on the device already. `memory`
is the most that torch held there. The last table is what sending pictures as bytes spares. Without an accelerator it
ends with exit code 2; `--device cpu --steps 2` goes through the same with small networks, to try the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch

from lightning_automl_vision.api import settings
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.errors import VisionError
from lightning_automl_vision.models import Batch
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.settings import TrainerConfig
from lightning_automl_vision.tables import table
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.session import TrainingSession, checked_transform
from lightning_automl_vision.training.speed import quickened

LABELS, BOXES, MASKS = "image_classification", "image_object_detection", "image_instance_segmentation"
WARM_UP = 5
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "32-true": {},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {"precision": "16-mixed"},
    "channels_last": {"precision": "bf16-mixed", "channels_last": True},
    "compile": {"precision": "bf16-mixed", "compile": True},
}
USUAL = ("32-true", "bf16-mixed", "channels_last", "compile")


@dataclass(frozen=True)
class Case:
    """A task and a model, on an accelerator and, small, on a CPU."""

    task: str
    model: Mapping[str, Any]
    small: Mapping[str, Any]
    batch: int


CASES = {
    "classes": Case(LABELS, {"name": "resnet50"}, {"name": "resnet18"}, 64),
    "several classes": Case(f"{LABELS}_multilabel", {"name": "mobilenetv2"}, {"name": "mobilenetv2"}, 64),
    "boxes, yolov5": Case(
        BOXES,
        {"name": "yolov5", "model_size": "small", "image_size": 640},
        {"name": "yolov5", "model_size": "nano", "image_size": 64},
        16,
    ),
    "boxes, fasterrcnn": Case(
        BOXES, {"name": "fasterrcnn_resnet50_fpn"}, {"name": "fasterrcnn_resnet18_fpn", "min_size": 64}, 4
    ),
    "masks": Case(MASKS, {"name": "maskrcnn_resnet50_fpn"}, {"name": "maskrcnn_resnet18_fpn", "min_size": 64}, 4),
}


class Enough(Exception):
    """Leaves the trainer."""


class Clock(L.Callback):
    """Seconds of so many steps after the first ones; the device is waited for before and after, not in between."""

    def __init__(self, steps: int, warm_up: int, wait: Callable[[], None]) -> None:
        self._steps, self._warm_up, self._wait = steps, warm_up, wait
        self._seen, self._started = 0, 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        self._seen += 1
        if self._seen == self._warm_up:
            self._wait()
            self._started = time.perf_counter()
        if self._seen == self._warm_up + self._steps:
            self._wait()
            self.seconds = (time.perf_counter() - self._started) / self._steps
            raise Enough


@dataclass(frozen=True)
class Device:
    kind: str

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.kind == "cuda" else f"{self.kind} of {platform.machine()}"

    @property
    def is_small(self) -> bool:
        return self.kind == "cpu"

    def wait(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def forget(self) -> None:
        if self.kind == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> str:
        return f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if self.kind == "cuda" else "-"


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Photos of noise with a bright rectangle, as JPEG, and what each task says of them."""
    draw, (width, height) = np.random.default_rng(0), size
    (folder / "pictures").mkdir()
    lines: dict[str, list[Any]] = {task: [] for task in (LABELS, f"{LABELS}_multilabel", BOXES, MASKS)}
    for number in range(count):
        coarse = draw.integers(0, 200, (height // 8, width // 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        left, top = draw.uniform(0.05, 0.5, 2)
        right, bottom = left + draw.uniform(0.2, 0.4), top + draw.uniform(0.2, 0.4)
        corners = [(round(left * width), round(top * height)), (round(right * width), round(bottom * height))]
        name, kind = f"pictures/{number}.jpg", str(number % 2)
        cv2.rectangle(image, *corners, (255, 255, 255) if number % 2 else (0, 255, 255), -1)
        cv2.imwrite(str(folder / name), image)
        outline = [left, top, right, top, right, bottom, left, bottom]
        box = {"label": kind, "topX": left, "topY": top, "bottomX": right, "bottomY": bottom}
        labels = (kind, [kind], [box], [{"label": kind, "polygon": [outline]}])
        for of_task, label in zip(lines.values(), labels, strict=True):
            of_task.append({"image_url": name, "label": label})
    for task, of_task in lines.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in of_task))


def measured(folder: Path, case: Case, option: str, device: Device, asked: argparse.Namespace) -> tuple[str, ...]:
    batch, warm_up = (2, 1) if device.is_small else (case.batch, WARM_UP)
    sizes = dict.fromkeys(("training_crop_size", "validation_crop_size", "validation_resize_size"), 32)
    given = settings(
        task=case.task,
        model={**(case.small if device.is_small else case.model), "pretrained": False},
        data={"training": str(folder / f"{case.task}.jsonl"), "cache": str(folder / "cache")},
        training={
            "training_batch_size": batch,
            "random_seed": 1,
            "number_of_epochs": 1000,
            "evaluation_frequency": 1000,
            **({"number_of_workers": 0} if device.is_small else {}),
            **(sizes if device.is_small and case.task.startswith(LABELS) else {}),
        },
        trainer={"accelerator": device.kind, "force_precision": device.is_small, **OPTIONS[option]},
        quiet=True,
    )
    spec = model_spec(given.model.name)
    spec.check_trainer(given.trainer)
    transform = checked_transform(given)
    session = TrainingSession.prepare(given, spec, load_data(given.data, given.task.name, seed=1), transform, 1)
    clock = Clock(asked.steps, warm_up, device.wait)
    device.forget()
    with tempfile.TemporaryDirectory(dir=folder) as output, suppress(Enough):
        started = time.perf_counter()
        session.fit(RunFolder(output), callbacks=(clock,))
    memory = device.memory()
    before = time.perf_counter() - started - clock.seconds * asked.steps
    step = alone(session, given.trainer, device, batch, asked.steps, warm_up)
    idle = max(1 - step / clock.seconds, 0.0)
    return f"{batch / clock.seconds:.1f}", f"{batch / step:.1f}", f"{idle:.0%}", memory, f"{before:.1f}"


def alone(
    session: TrainingSession, trainer: TrainerConfig, device: Device, batch_size: int, steps: int, warm_up: int
) -> float:
    """Seconds of a step on a batch that is on the device."""
    task = session.task.to(device.kind).train()
    batch = next(iter(session._training_loader(batch_size, workers=0))).to(torch.device(device.kind))
    optimizer = make_optimizer(task.model, session.settings.training)
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(trainer.precision)

    def autocast() -> AbstractContextManager[Any]:
        return nullcontext() if kind is None else torch.autocast(device.kind, dtype=kind)

    started = 0.0
    with quickened(task, trainer):
        for step in range(warm_up + steps):
            if step == warm_up:
                device.wait()
                started = time.perf_counter()
            with autocast():
                loss = torch.stack([part.float() for part in task.model.losses(batch).values()]).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        device.wait()
    return (time.perf_counter() - started) / steps


def sent(case: Case, device: Device, rounds: int) -> tuple[str, ...]:
    """Milliseconds for a batch as bytes and as floating point, from memory that a GPU reads directly where it can."""
    usual = 224 if case.task.startswith(LABELS) else 800
    side = 64 if device.is_small else int(case.model.get("image_size", usual))
    images = torch.zeros((2 if device.is_small else case.batch, 3, side, side), dtype=torch.uint8)
    batch: Batch[Any] = Batch(images=images, targets=None, keys=[""] * len(images))
    times = []
    for pictures in (batch.images, batch.images.float()):
        here = pictures.pin_memory() if device.kind == "cuda" else pictures
        taken = []
        for _ in range(rounds + 1):
            device.wait()
            started = time.perf_counter()
            here.to(device.kind, non_blocking=True, copy=True)
            device.wait()
            taken.append(time.perf_counter() - started)
        times.append(statistics.median(taken[1:]) * 1e3)
    return f"{len(images)} x {side}", f"{times[0]:.3f}", f"{times[1]:.3f}", f"{times[1] / times[0]:.1f}"


def there(asked: str | None) -> Device | None:
    if asked is not None:
        return Device(asked)
    if torch.cuda.is_available():
        return Device("cuda")
    return Device("mps") if torch.backends.mps.is_available() else None


def rows_of(folder: Path, device: Device, asked: argparse.Namespace) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name in asked.cases:
        case = CASES[name]
        model = (case.small if device.is_small else case.model)["name"]
        for option in asked.options:
            torch.compiler.reset()
            try:
                figures = measured(folder, case, option, device, asked)
            except VisionError as error:  # what a model cannot take, or this device
                figures = (str(error).partition(". ")[0],)
            rows.append((name, model, option, *figures, *("",) * (5 - len(figures))))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(USUAL))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    device = there(asked.device)
    if device is None:
        print("No accelerator: torch finds neither cuda nor mps here. --device cpu tries the benchmark itself.")
        return 2
    logging.getLogger("lightning_automl_vision").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{device.name}, {cores} cores, torch {torch.__version__}, {asked.steps} steps each", flush=True)
    with tempfile.TemporaryDirectory() as name:
        count, size = (24, (96, 80)) if device.is_small else (asked.images, (640, 480))
        write_pictures(Path(name), count, size)
        rows = rows_of(Path(name), device, asked)
    heads = ("task", "model", "option", "images/s", "on the device", "idle", "GB", "s before")
    print(table(heads, rows))
    print()
    copies = [(name, *sent(CASES[name], device, asked.steps)) for name in asked.cases]
    print(table(("task", "pictures", "ms as bytes", "ms as float", "times"), copies))
    return 0


if __name__ == "__main__":
    sys.exit(main())
