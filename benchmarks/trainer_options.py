"""What trainer.channels_last, trainer.compile and trainer.precision=bf16-mixed cost and gain on this processor.

    OMP_NUM_THREADS=1 python benchmarks/trainer_options.py [--steps 5]

For each model the median CPU seconds of a training step, what the first one takes longer (of which the C++ compiler's
own processes are no part), and how far the losses of three steps are from those of plain training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from lightning_automl_vision.data.batching import box_targets
from lightning_automl_vision.models import Batch, Targets
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import Boxes
from lightning_automl_vision.settings import TrainerConfig
from lightning_automl_vision.tables import table
from lightning_automl_vision.training.speed import quickened

OPTIONS = {
    "32-true": TrainerConfig(),
    "channels_last": TrainerConfig(channels_last=True),
    "bf16-mixed": TrainerConfig(precision="bf16-mixed"),
    "compile": TrainerConfig(compile=True),
    "compile, channels_last": TrainerConfig(compile=True, channels_last=True),
}


def classifier():
    model = model_spec("timm").build(
        task="image_classification", num_classes=10, image_size=224, architecture="resnet18", pretrained=False
    )
    images = torch.randint(0, 255, (8, 3, 224, 224), dtype=torch.uint8)
    return model, Batch(images=images, targets=Targets(labels=torch.arange(8)), keys=[str(n) for n in range(8)])


def detector():
    import numpy as np

    model = model_spec("yolov5").build(
        task="image_object_detection", num_classes=3, image_size=320, model_size="nano", pretrained=False
    )
    random = np.random.default_rng(0)
    truth = []
    for _ in range(8):
        corners = random.uniform(0, 200, (4, 2))
        boxes = np.hstack([corners, corners + random.uniform(30, 100, (4, 2))])
        truth.append(Boxes(labels=random.integers(0, 3, 4), boxes=boxes, crowd=np.zeros(4, np.bool_)))
    images = torch.randint(0, 255, (8, 3, 320, 320), dtype=torch.uint8)
    return model, Batch(images=images, targets=box_targets(truth), keys=[str(n) for n in range(8)])


def measured(make, trainer: TrainerConfig, steps: int) -> tuple[float, float, list[float]]:
    """CPU seconds of the first step, the median of the others, and the losses of the first three."""
    torch.manual_seed(0)
    model, batch = make()
    model.train()
    task = SimpleNamespace(model=model, to=model.to)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    half = trainer.precision == "bf16-mixed"
    losses, seconds = [], []
    with quickened(task, trainer):  # type: ignore[arg-type]  # what it needs of a task
        for _ in range(steps + 1):
            started = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False) if half else nullcontext():
                loss = torch.stack(list(model.losses(batch).values())).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - started)
            losses.append(float(loss.detach()))
    return seconds[0], statistics.median(seconds[1:]), losses[:3]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    steps = parser.parse_args().steps
    rows = []
    for name, make in {"resnet18, 8 of 224": classifier, "yolov5 nano, 8 of 320": detector}.items():
        plain: list[float] = []
        usual = 0.0
        for option, trainer in OPTIONS.items():
            torch.compiler.reset()
            first, step, losses = measured(make, trainer, steps)
            plain, usual = plain or losses, usual or step
            apart = max(abs(one - other) / abs(other) for one, other in zip(losses, plain, strict=True))
            rows.append((name, option, f"{step:.3f}", f"{usual / step:.2f}", f"{first - step:.1f}", f"{apart:.1e}"))
            print(*rows[-1], sep="  ", flush=True)
    print(table(("model", "option", "s a step", "times as fast", "s before", "losses apart"), rows))


if __name__ == "__main__":
    main()
