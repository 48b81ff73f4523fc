"""yolov5 made quick for prediction beside the same model as it was trained: norms folded in, channels last.

    python benchmarks/yolov5_prediction.py

One picture at a time on one thread, suppression of boxes included, both in turn; the least CPU milliseconds of each.
Goal: at least 1.08 times as quick.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch

from lav_yolov5.model import YoloV5, build
from lightning_automl_vision.data.batching import no_targets
from lightning_automl_vision.models import Batch

CLASSES = 80


def model_of(size: str, side: int) -> YoloV5:
    """Untrained, so that little is found: what is timed is the network."""
    torch.manual_seed(0)
    model = build(task="image_object_detection", num_classes=CLASSES, image_size=side, model_size=size)
    return model.eval()


def batch_of(side: int) -> Batch[Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    return Batch(images=image, targets=no_targets(1), keys=[""])


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
    print(f"{'':16}{'trained':>10}{'quick':>10}{'ratio':>8}")
    for size in ("nano", "small", "medium"):
        for side in (320, 640):
            model = model_of(size, side)
            quick = deepcopy(model)
            quick.for_prediction()
            batch = batch_of(side)
            with torch.inference_mode():
                calls = [lambda m=model, b=batch: m.predict(b), lambda m=quick, b=batch: m.predict(b)]  # type: ignore[misc]
                plain, folded = least(calls, 20 if side == 320 else 8)
            print(f"{size + ' ' + str(side):16}{plain * 1e3:8.1f}ms{folded * 1e3:8.1f}ms{plain / folded:8.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
