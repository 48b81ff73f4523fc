"""What a training costs, by a few of its real steps: seconds and memory."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.search.planning import Measured
from lightning_automl_vision.specs import ModelSpec
from lightning_automl_vision.training.devices import device_of
from lightning_automl_vision.training.gathering import as_one_of
from lightning_automl_vision.training.ranks import shared_threads
from lightning_automl_vision.training.session import TrainingSession, checked_transform

# So many steps, in at least so many seconds; and no more seconds than that, once there is one to go by.
_STEPS, _SECONDS, _MOST_SECONDS = 6, 3.0, 15.0
_BATCHES = 4
_CHECKPOINT = "measured.ckpt"


class _Enough(Exception):
    """Leaves the trainer."""


@dataclass
class Clock(L.Callback):
    """Takes the time of training steps, of validation batches and of a checkpoint, then ends the training.

    The first step and the first batch start processes and fill caches: they count before the first step.
    """

    folder: Path
    steps: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    before: float = 0.0
    saving: float = 0.0
    memory: int = 0
    steps_of_epoch: int = 0
    batches_of_epoch: int = 0
    _last: float = 0.0
    _stopping: bool = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.check_val_every_n_epoch = 1  # whatever was asked for: this epoch is the only one

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._take(self.steps)
        self.memory = max(self.memory, memory_of_all())
        taken = sum(self.steps[1:])
        enough = len(self.steps) > _STEPS and taken >= _SECONDS
        if not self._stopping and (enough or (len(self.steps) > 1 and taken >= _MOST_SECONDS)):
            self._stopping = trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps_of_epoch = int(trainer.num_training_batches)
        self.batches_of_epoch = sum(int(number) for number in trainer.num_val_batches)
        started = time.monotonic()
        trainer.save_checkpoint(self.folder / _CHECKPOINT)
        self.saving = time.monotonic() - started
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        self._last = time.monotonic()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._take(self.batches)
        self.memory = max(self.memory, memory_of_all())
        if len(self.batches) > _BATCHES or sum(self.batches) >= _MOST_SECONDS:
            raise _Enough

    def on_validation_epoch_end(self, *_: Any) -> None:
        raise _Enough

    def start(self) -> None:
        self._last = time.monotonic()

    def _take(self, times: list[float]) -> None:
        now = time.monotonic()
        times.append(now - self._last)
        self._last = now


def measure(settings: Settings, spec: ModelSpec) -> Measured:
    """Reads the data, builds the model and trains for a moment in ``output_dir``; refuses what a training would."""
    started = time.monotonic()
    folder = RunFolder(settings.output_dir)
    transform = checked_transform(settings)
    seed = int(settings.training.random_seed or 0)
    data = load_data(settings.data, settings.task.name, seed=seed)
    spec.check_weights(**settings.model_parameters)
    session = TrainingSession.prepare(settings, spec, data, transform, seed)
    clock = Clock(folder.path)
    clock.start()
    prepared = time.monotonic() - started
    here, processes = settings.trainer.devices, settings.trainer.devices * settings.trainer.num_nodes
    shared = shared_threads(here) if device_of(settings.trainer.accelerator) == "cpu" else nullcontext()
    with suppress(_Enough), as_one_of(processes, here), shared:
        session.fit(folder, callbacks=(clock,))
    frequency = settings.training.evaluation_frequency
    evaluation = clock.batches_of_epoch * _usual(clock.batches) + 2 * clock.saving
    trainings = settings.data.folds or 1
    measured = Measured(
        startup=trainings * (prepared + _beyond_usual(clock.steps) + _beyond_usual(clock.batches)),
        epoch=trainings * (clock.steps_of_epoch * _usual(clock.steps) + evaluation / frequency),
        memory=here * clock.memory,
        device_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        steps=len(clock.steps),
        processes=processes,
    )
    return replace(measured, seconds=time.monotonic() - started)


def _usual(times: list[float]) -> float:
    """The mean without the first, where there are others."""
    return sum(times[1:]) / len(times[1:]) if len(times) > 1 else sum(times)


def _beyond_usual(times: list[float]) -> float:
    """What the first one took longer."""
    return max(times[0] - _usual(times), 0.0) if times else 0.0


def memory_of_all() -> int:
    """The bytes that this process has used at most, and its workers use now."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own + sum(_own_bytes(child.pid) for child in multiprocessing.active_children() if child.pid is not None)


def _own_bytes(pid: int) -> int:
    """What a process has for itself; its part of what several share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
