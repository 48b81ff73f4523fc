"""Opens a generated million-line JSONL, draws from it, and watches what processes that read come to own.

python benchmarks/large_data.py [--lines 1000000] [--objects 3] [--images 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import read_labels
from read_labels import classification, detection, peak

from lightning_automl_vision.data.labelled import check_training, hold_out, read_labelled
from lightning_automl_vision.data.packed import PackedHeaders
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.settings import DataConfig

DRAWS = 100_000
EPOCHS = 3


def opened(path: str, task: str) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds and MB of all until training and validation part; microseconds of a draw and its sample."""
    started, busy = time.perf_counter(), time.process_time()
    images = read_labelled(path, task, DataConfig(), probe=False)
    check_training(images, task, DataConfig())
    sizes = np.ones((len(images), 2), np.int32)  # there are no pictures
    training, _ = hold_out(replace(images, headers=PackedHeaders(sizes)), DataConfig(), seed=0)
    seconds, busy, memory = time.perf_counter() - started, time.process_time() - busy, peak()
    draws = iter(EpochSampler(len(training), shuffle=True, seed=0))
    next(draws)
    started = time.process_time()
    for _ in range(min(DRAWS, len(training) - 1)):
        training.samples[next(draws).image]
    return seconds, busy, memory, (time.process_time() - started) / min(DRAWS, len(training) - 1) * 1e6


def owned(process: int | str) -> tuple[float, float]:
    """MB that a process has alone, and its fair share of what it has with others."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines[1:]}
    return found["Private_Dirty"], found["Pss"]


def epochs(count: int, workers: int) -> None:
    from lightning_automl_vision.data.batching import class_targets  # torch, which no opening needs
    from lightning_automl_vision.data.module import make_loader

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        cv2.imwrite(str(folder / "picture.png"), np.zeros((16, 16, 3), np.uint8))
        with (folder / "train.jsonl").open("w") as file:
            for number in range(count):
                os.symlink("../picture.png", folder / "images" / f"{number:08}.png")
                file.write(json.dumps({"image_url": f"images/{number:08}.png", "label": str(number % 20)}) + "\n")
        started = time.perf_counter()
        config = DataConfig(cache=str(folder / "cache"))
        images = read_labelled(str(folder / "train.jsonl"), "image_classification", config)
        print(f"{count} images opened with their headers in {time.perf_counter() - started:.1f} s")
        loader = make_loader(
            images.samples,
            num_classes=20,
            truth=class_targets,
            transform=CenterCrop(resize=16, size=16),
            batch_size=256,
            seed=0,
            shuffle=True,
            workers=workers,
        )
        print(f"{'epoch':>5}  each process that reads: MB of its own / PSS")
        for epoch in range(EPOCHS):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for _ in loader:
                pass
            readers: Any = loader._iterator
            shown = ["{:.1f} / {:.1f}".format(*owned(worker.pid)) for worker in readers._workers]
            print(f"{epoch + 1:5}  {'   '.join(shown)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    read_labels.OBJECTS = asked.objects
    print(f"{'task':24}{'lines':>9}{'seconds':>9}{'CPU s':>7}{'peak MB':>9}{'us a draw':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for task, generate in {"image_classification": classification, "image_object_detection": detection}.items():
            for lines in (asked.lines // 10, asked.lines):
                path = Path(folder) / "train.jsonl"
                with path.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(line) + "\n" for line in generate(lines, random.Random(0)))
                with get_context("spawn").Pool(1) as pool:
                    seconds, busy, memory, draw = pool.apply(opened, (str(path), task))
                print(f"{task:24}{lines:9}{seconds:9.1f}{busy:7.1f}{memory:9.0f}{draw:11.2f}", flush=True)
    epochs(asked.images, asked.workers)


if __name__ == "__main__":
    main()
