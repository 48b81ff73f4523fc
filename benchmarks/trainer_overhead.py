"""What the trainer adds to a step: a raw PyTorch loop and a run with default settings, interleaved in one process.

    python benchmarks/trainer_overhead.py [tiny] [resnet18]

CPU seconds of this process on one thread, so that neighbours on the machine hardly matter. The raw loop does the same
work: forward, loss, backward, sgd with momentum, the same learning rate schedule, batches in memory. Goals: tiny,
at most 1.5 ms a step over raw; resnet18 at 224, batch 8, at most 1.03 times raw.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_automl_vision.models import Batch, Classifier, Targets
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training.fit import fit
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.schedules import factor_of

WARM_UP_STEPS = {"tiny": 20, "resnet18": 1}
STEPS = {"tiny": 400, "resnet18": 5}
ROUNDS = {"tiny": 7, "resnet18": 7}


class Repeated(IterableDataset[Batch[Targets]]):
    """The same batch again and again, which costs a loader next to nothing."""

    def __init__(self, batch: Batch[Targets], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch[Targets]]:
        return iter([self.batch] * self.count)


def make_model(case: str) -> Classifier:
    torch.manual_seed(0)
    if case == "tiny":
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), multilabel=False)
    import timm

    return Classifier(timm.create_model("resnet18", num_classes=10), multilabel=False)


def make_batch(case: str) -> Batch[Targets]:
    count, side = (4, 2) if case == "tiny" else (8, 224)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    return Batch(images=images, targets=Targets(labels=torch.arange(count)), keys=[""] * count)


def make_training() -> TrainingConfig:
    return TrainingConfig(
        number_of_epochs=1,
        training_batch_size=8,
        validation_batch_size=8,
        learning_rate=1e-4,
        nominal_batch_size=None,
        decay_norms_and_biases=True,
        ema_decay=0.0,
        gradient_clip=None,
    )


class Clock:
    """CPU seconds between the first measured step and the last."""

    def __init__(self, case: str) -> None:
        self.steps, self.skipped = 0, WARM_UP_STEPS[case]
        self.total = STEPS[case] + self.skipped
        self.milliseconds = 0.0
        self._start = 0.0

    def tick(self) -> None:
        """At the beginning of each step."""
        if self.steps == self.skipped:
            self._start = time.process_time()
        if self.steps == self.total:
            self.milliseconds = (time.process_time() - self._start) / (self.total - self.skipped) * 1e3
        self.steps += 1


def loader(case: str, clock: Clock) -> DataLoader[Batch[Targets]]:
    return DataLoader(Repeated(make_batch(case), clock.total + 1), batch_size=None)


def raw(case: str) -> float:
    model, clock, training = make_model(case).train(), Clock(case), make_training()
    optimizer = make_optimizer(model, training)
    factor = factor_of(training, steps_per_epoch=clock.total, total=clock.total)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for batch in loader(case, clock):
        clock.tick()
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
        schedule.step()
    return clock.milliseconds


def trained(case: str) -> float:
    """Everything as in a run: the default tracker, our callbacks, a terminal's progress bar, one evaluation."""
    clock, training = Clock(case), make_training()

    class Timed(MulticlassTask):
        def training_step(self, batch: Batch[Targets], index: int) -> torch.Tensor:
            clock.tick()
            return super().training_step(batch, index)

    with tempfile.TemporaryDirectory() as folder, terminal():
        fit(
            Timed(make_model(case), training, [str(number) for number in range(10)]),
            loader(case, clock),
            DataLoader(Repeated(make_batch(case), 1), batch_size=None),
            training=training,
            trainer=TrainerConfig(accelerator="cpu"),
            limits=LimitsConfig(),
            folder=Path(folder),
            loggers=[CSVLogger(folder, name="csv", version="")],
        )
    return clock.milliseconds


class terminal:
    """Stands for stderr, and says it is a terminal, so that the progress bar is part of what is measured."""

    def __enter__(self) -> None:
        self.stderr = sys.stderr
        sys.stderr = self

    def __exit__(self, *_: Any) -> None:
        sys.stderr = self.stderr

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


def measure(case: str) -> None:
    runs: dict[str, Callable[[str], float]] = {"raw": raw, "trainer": trained}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(case)
    for _ in range(ROUNDS[case]):
        for name, run in runs.items():
            found[name].append(run(case))
    plain, full = (statistics.median(found[name]) for name in runs)
    ratios = [ours / theirs for ours, theirs in zip(found["trainer"], found["raw"], strict=True)]
    print(
        f"{case}: raw {plain:.3f} ms a step, trainer {full:.3f} ms: {full - plain:+.3f} ms,"
        f" {statistics.median(ratios):.3f} times ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or list(STEPS):
        measure(chosen)
