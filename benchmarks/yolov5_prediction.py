"""yolov5 made quick for prediction, norms folded in and channels last, beside plain eager PyTorch.

    python benchmarks/yolov5_prediction.py

The network alone on one picture and one thread, plain (channels first, norms apart) and quick in turn, and the whole of
`predict` with suppression of boxes; the least CPU milliseconds of each. Goal: at least 1.08 times as quick.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
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
    print(f"{'':16}{'plain':>10}{'quick':>10}{'ratio':>8}{'predict':>12}")
    for size in ("nano", "small", "medium"):
        for side in (320, 640):
            model = model_of(size, side)
            quick = deepcopy(model)
            quick.for_prediction()
            batch = batch_of(side)
            image = batch.images / 255
            last = image.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                calls = [partial(model.network, image), partial(quick.network, last), partial(quick.predict, batch)]
                plain, folded, predict = (seconds * 1e3 for seconds in least(calls, 20 if side == 320 else 8))
            print(f"{f'{size} {side}':16}{plain:8.1f}ms{folded:8.1f}ms{plain / folded:8.2f}{predict:10.1f}ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
