"""What a second process is worth: trainings of two processes with a thread each beside those of one with one.

    python benchmarks/ddp.py [--rounds 3] [--epochs 4] [--images 240] [--batch 8]

Each training is a command line of its own, and the two kinds take turns. Every process has batches of so many images,
so that two have half as many steps. An epoch is the time between two evaluations, the first one left out; starting is
all that lies outside of the epochs: imports, reading the labels, meeting the other process, the model folder.
Efficiency is what an epoch takes alone over twice what it takes together. Needs two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from lightning_automl_vision.search.trial_process import without_cluster
from lightning_automl_vision.tables import table

SIDE = 160
SIZES = ("training_crop_size", "validation_crop_size", "validation_resize_size")
CASES = {
    **{
        f"resnet18 at {size}": (
            "task=image_classification",
            "model=resnet18",
            *(f"training.{name}={size}" for name in SIZES),
        )
        for size in (64, 224)
    },
    "yolov5 nano at 128": (
        "task=image_object_detection",
        "model=yolov5",
        "model.model_size=nano",
        "model.image_size=128",
    ),
}


@dataclass(frozen=True)
class Run:
    """Seconds of the median epoch, of what lies around them all, and of CPU in all processes together."""

    epoch: float
    starting: float
    busy: float


def write_pictures(folder: Path, count: int) -> None:
    """Squares of two colours on noise, with their colour for a class and with their boxes."""
    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    classes, boxes = [], []
    for number in range(count):
        image = draw.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        left, top, side = (int(value) for value in draw.integers((4, 4, 30), (90, 90, 60)))
        colour = number % 2
        image[top : top + side, left : left + side] = (40, 40, 220) if colour else (220, 60, 40)
        name = f"pictures/{number}.jpg"
        cv2.imwrite(str(folder / name), image)
        corners = {"topX": left, "topY": top, "bottomX": left + side, "bottomY": top + side}
        found = {"label": str(colour), **{key: value / SIDE for key, value in corners.items()}}
        classes.append({"image_url": name, "label": str(colour)})
        boxes.append({"image_url": name, "label": [found]})
    for name, lines in {"image_classification": classes, "image_object_detection": boxes}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def trained(folder: Path, case: str, processes: int, asked: argparse.Namespace) -> Run:
    words = (
        *CASES[case],
        "model.pretrained=false",
        f"data.training={CASES[case][0].removeprefix('task=')}.jsonl",
        f"training.number_of_epochs={asked.epochs}",
        f"training.training_batch_size={asked.batch}",
        f"training.validation_batch_size={asked.batch}",
        "training.number_of_workers=0",
        "training.early_stopping=false",
        "training.random_seed=1",
        "trainer.accelerator=cpu",
        *((f"trainer.devices={processes}", "trainer=ddp") if processes > 1 else ()),
    )
    with tempfile.TemporaryDirectory(dir=folder) as output:
        busy, started = _busy(), time.monotonic()
        # The first process deals out its threads to all of them.
        environment = {**without_cluster(os.environ), "OMP_NUM_THREADS": str(processes)}
        done = subprocess.run(
            [sys.executable, "-m", "lightning_automl_vision", *words, f"output_dir={output}/run", "quiet=true"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.monotonic() - started
        if done.returncode:
            sys.exit(done.stderr.strip() or f"exit code {done.returncode}")
        lines = (Path(output) / "run" / "metrics.jsonl").read_text().splitlines()
        ends = [json.loads(line)["seconds"] for line in lines]
    epochs = [later - earlier for earlier, later in pairwise(ends)]
    epoch = statistics.median(epochs)
    return Run(epoch, wall - epoch * len(ends), _busy() - busy)


def _busy() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    if asked.epochs < 2:
        parser.error("an epoch is measured from one evaluation to the next: --epochs 2 at least")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name), asked.images)
        for case in asked.cases:
            runs: dict[int, list[Run]] = {1: [], 2: []}
            for _ in range(asked.rounds):
                for processes, of_them in runs.items():
                    of_them.append(trained(Path(name), case, processes, asked))
                    print(case, processes, of_them[-1], file=sys.stderr, flush=True)
            rows.append((case, *figures(runs[1], runs[2])))
    heads = ("model", "1 x 1: s an epoch", "2 x 1", "efficiency", "in rounds", "starting: s", "of two", "CPU s more")
    print(table(heads, rows))


def figures(alone: list[Run], together: list[Run]) -> tuple[str, ...]:
    """Medians; the efficiency is that of pairs which ran one after the other."""
    shares = [one.epoch / two.epoch / 2 for one, two in zip(alone, together, strict=True)]
    parts = [(part, runs) for part in ("epoch", "starting", "busy") for runs in (alone, together)]
    medians = [statistics.median(getattr(run, part) for run in runs) for part, runs in parts]
    one, two, starting, of_two, busy, busy_of_two = medians
    return (
        f"{one:.2f}",
        f"{two:.2f}",
        f"{statistics.median(shares):.2f}",
        f"{min(shares):.2f} to {max(shares):.2f}",
        f"{starting:.1f}",
        f"{of_two:.1f}",
        f"{busy_of_two - busy:.1f}",
    )


if __name__ == "__main__":
    main()
