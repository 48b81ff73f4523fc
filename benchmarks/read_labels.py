"""Reads and checks 100,000 generated lines, and compares with bare ``json.loads`` of the same lines in the same run.

python benchmarks/read_labels.py [--lines 100000]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.settings import DataConfig

OBJECTS = 10
CLASSES = [f"class_{number}" for number in range(20)]


def image_name(number: int) -> str:
    return f"images/folder_{number % 100}/picture_{number:08d}.jpg"


def classification(lines: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(lines):
        details = {"format": "jpg", "width": "640px", "height": "480px"}
        yield {"image_url": image_name(number), "image_details": details, "label": draw.choice(CLASSES)}


def multilabel(lines: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(lines):
        yield {"image_url": image_name(number), "label": draw.sample(CLASSES, draw.randint(0, 4))}


def detection(lines: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(lines):
        yield {"image_url": image_name(number), "label": [box(draw) for _ in range(OBJECTS)]}


def box(draw: random.Random) -> dict[str, Any]:
    left, top = round(draw.uniform(0, 0.8), 6), round(draw.uniform(0, 0.8), 6)
    right, bottom = round(left + draw.uniform(0.01, 0.2), 6), round(top + draw.uniform(0.01, 0.2), 6)
    sides = {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}
    return {"label": draw.choice(CLASSES), **sides, "isCrowd": 0}


GENERATORS = {
    "image_classification": classification,
    "image_classification_multilabel": multilabel,
    "image_object_detection": detection,
}


def bare(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        return sum(1 for line in file if json.loads(line))


def checked(path: str, task: str) -> Any:
    return read_labelled(path, task, DataConfig(), probe=False)


def peak() -> float:
    """The largest resident size so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(path: str, task: str) -> tuple[float, float, float]:
    """CPU seconds of reading and of bare parsing (best of three), and MB over the imports."""
    first = peak()
    read, kept = timed(lambda: checked(path, task))
    memory = peak() - first
    assert len(kept) > 0
    seconds = min([read, *(timed(lambda: checked(path, task))[0] for _ in range(2))])
    return seconds, min(timed(lambda: bare(path))[0] for _ in range(3)), memory


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    lines = parser.parse_args().lines
    print(f"{'task':33}{'lines':>8}{'CPU s':>8}{'json.loads':>12}{'ratio':>7}{'MB over imports':>17}")
    with tempfile.TemporaryDirectory() as folder:
        for task, generate in GENERATORS.items():
            path = Path(folder) / f"{task}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in generate(lines, random.Random(0)))
            # A process of its own, so that one task's memory is not another's.
            with get_context("spawn").Pool(1) as pool:
                seconds, parsing, memory = pool.apply(measure, (str(path), task))
            print(f"{task:33}{lines:8}{seconds:8.2f}{parsing:12.2f}{seconds / parsing:7.2f}{memory:17.0f}")


if __name__ == "__main__":
    main()
