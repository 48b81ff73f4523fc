"""CPU seconds that a trial of a sweep costs beyond its training: forked from the warm server, and as a fresh process.

    python benchmarks/sweep_overhead.py [ROUNDS]

The training itself is `train_model` with settings that are already composed, repeated in this one warm process: reading
the labels, building resnet18 without weights, one epoch on 24 pictures at 32 px, evaluating, writing the run's folder.
A trial is all of that by its command line, from its start until nobody of its process group is left: its own CPU
seconds, those of the fork server, and those of this process, which waits. One thread each, the three in turn.
Neighbours on the machine add to each figure; the least of each is nearest to what it costs alone.
Goal: forked, at most 0.5 s.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from lightning_automl_vision.api import settings
from lightning_automl_vision.jobs.train import train_model
from lightning_automl_vision.search.fork_server import ForkServer
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.trial_process import Command, TrialProcess

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
KEYS = {
    "model": {"name": "resnet18", "pretrained": False},
    "training": {
        "number_of_epochs": 1,
        "training_batch_size": 4,
        "training_crop_size": 32,
        "validation_crop_size": 32,
        "validation_resize_size": 32,
        "number_of_workers": 0,
        "random_seed": 3,
    },
    "trainer": {"accelerator": "cpu"},
}
WARM_UPS = 3


def write_photos(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(np.array(colour) * 0.6 + random.integers(0, 90, (40, 48, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), pixels[..., ::-1])
    return folder


class Case:
    """The same training in three ways, each in a folder of its own."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self.folder, self.server, self.count = folder, server, 0
        self.data = {"training": str(write_photos(folder / "photos"))}

    def within(self) -> float:
        composed = settings(**KEYS, data=self.data, quiet=True, output_dir=str(self._next()))
        return used(lambda: train_model(composed))

    def forked(self) -> float:
        # All of the server's time is in the trial's account but for what it does between trials.
        before = server_seconds(self.server)
        return self._trial(self.server) + server_seconds(self.server) - before

    def fresh(self) -> float:
        return self._trial(None)

    def _trial(self, server: ForkServer | None) -> float:
        arguments = tuple(as_overrides({**KEYS, "data": self.data}))
        command = Command(arguments=arguments, folder=self._next(), metric="accuracy")
        trials: list[TrialProcess] = []

        def run() -> None:
            trials.append(TrialProcess.start(command, server))
            outcome = trials[0].wait()
            if outcome is None or outcome.state != "complete":
                raise SystemExit(f"The trial did not come to its end: {outcome}, {command.console}.")

        return used(run) + (trials[0].cpu_seconds or 0.0)

    def _next(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)


def used(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def server_seconds(server: ForkServer) -> float:
    """Of the server alone, without its children."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory() as folder, ForkServer() as server:
        case = Case(Path(folder), server)
        for _ in range(WARM_UPS):
            case.within()
        case._trial(server)  # which waits until the server has imported everything
        if server.fault:
            raise SystemExit(f"Nothing can be forked here: {server.fault}.")
        ways = {"training itself": case.within, "forked": case.forked, "fresh": case.fresh}
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                found[way].append(run())
    plain = found["training itself"]
    for way, seconds in found.items():
        more = statistics.median(mine - itself for mine, itself in zip(seconds, plain, strict=True))
        print(
            f"{way:16} {statistics.median(seconds):5.2f} s ({min(seconds):.2f} to {max(seconds):.2f}),"
            f" {more:+.2f} s in the same round, {min(seconds) - min(plain):+.2f} s at best"
        )


if __name__ == "__main__":
    main()
