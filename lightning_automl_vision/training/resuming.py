"""What a training needs to go on exactly where it was: written into every checkpoint, found again and put back."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import lightning as L
import torch

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.result import PRUNED
from lightning_automl_vision.run import write
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.training.checkpoints import forget, keep_as, load
from lightning_automl_vision.training.continuing import BEST, CHECKPOINTS, LAST, NEVER, PREVIOUS, kept_best
from lightning_automl_vision.training.ending import COMPLETED, INTERRUPTED, STOPPED_EARLY, Ending, ends_a_step
from lightning_automl_vision.training.evaluations import Evaluations
from lightning_automl_vision.training.gathering import agreed, each, is_first, share, told
from lightning_automl_vision.training.random_states import random_states, set_random_states
from lightning_automl_vision.training.stopping import Stopping

Task = VisionTask[Any, Any]
# What a checkpoint calls what is ours in it, and how that is laid out.
_OURS, _VERSION = "lightning_automl_vision", 2
_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where an earlier attempt was when it wrote its checkpoint.

    ``epochs`` are over, and ``batches`` of the next one; ``ended`` is the status of a training that has nothing left to
    do, for a ``reason``. ``data`` is the fingerprint of what it learnt from.
    """

    path: Path
    checkpoint: dict[str, Any] = field(repr=False)
    epochs: int
    batches: int
    step: int
    seconds: float
    ended: str | None
    reason: str | None
    data: str
    evaluations: Mapping[str, Any]
    task: Mapping[str, Any]
    random: Mapping[str, Any]


def find(folder: Path, data: str) -> Resumed | None:
    """What the attempt before left in a run's folder, of its last checkpoint that can be read and whose best is there.

    ConfigError where it learnt from other data. Of several processes the first looks, and all go on from what it found.
    """
    found = _find(folder, data) if is_first() else None
    path = told(None if found is None else found.path)
    if path is None or found is not None:
        return found
    if (found := _read(path)) is None:
        raise ConfigError(f"{path} is not there for process {share().rank + 1}: all need the same output_dir to go on.")
    return found


def _find(folder: Path, data: str) -> Resumed | None:
    there = [path for name in (LAST, PREVIOUS) if (path := folder / CHECKPOINTS / name).is_file()]
    for path in there:
        resumed = _read(path)
        if resumed is None:
            continue
        if resumed.data != data:
            raise ConfigError(
                f"output_dir={folder} holds a run that was ended, and cannot go on from there: the images or labels it"
                " was trained on have changed since. Give it those it had, begin anew in its place with"
                f" resume={NEVER}, or name another folder."
            )
        if not _restore_best(path.parent, resumed.evaluations["best_epoch"]):
            LOG.warning("%s is not used: the weights of its best epoch are gone.", path)
            continue
        _tell(resumed)
        return resumed
    if there:
        LOG.warning("There is nothing to go on from in %s: training begins anew.", folder)
    return None


def _read(path: Path) -> Resumed | None:
    """None, and a line that says why, for what a crash tore or another version wrote."""
    try:
        with ZipFile(path) as file:
            torn = file.testzip()
        if torn is not None:
            raise BadZipFile(f"{torn} is damaged")
        checkpoint = load(path)
    except (OSError, EOFError, RuntimeError, ValueError, BadZipFile, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        LOG.warning("%s is not used, for it cannot be read: %s.", path, reason.rstrip("."))
        return None
    ours = checkpoint.pop(_OURS, None)
    if not isinstance(ours, dict) or ours.pop("version", None) != _VERSION:
        LOG.warning("%s is not used: another version of this package wrote it.", path)
        return None
    processes = ours.pop("processes")
    if len(processes) != share().size:
        raise ConfigError(
            f"{path} was written by {len(processes)} processes, and cannot be gone on from by {share().size}. Start as"
            f" many, begin anew in its place with resume={NEVER}, or name another folder."
        )
    return Resumed(path=path, checkpoint=checkpoint, **ours, **processes[share().rank])


def _restore_best(folder: Path, epoch: int | None) -> bool:
    """Whether best.ckpt is of that epoch again: one may have been written over it since the checkpoint."""
    if epoch is None:
        return True
    for path in (folder / BEST, folder / kept_best(epoch)):
        try:
            if load(path)["epoch"] == epoch:
                break
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
            continue
    else:
        return False
    if path.name != BEST:
        keep_as(path, BEST)
    return True


def _tell(resumed: Resumed) -> None:
    if resumed.ended is not None:
        LOG.info("The training had come to its end in an earlier attempt: what is left is to write down its result.")
    else:
        LOG.info(
            "Training goes on in epoch %d after batch %d, step %d in all, from %s.",
            resumed.epochs + 1,
            resumed.batches,
            resumed.step,
            resumed.path,
        )


def begin(folder: Path, resumed: Resumed | None) -> None:
    """Whatever an earlier attempt wrote after its checkpoint is gone; without one, all that it wrote.

    The evaluations become a new file in any case, so that whoever reads along reads all of them.
    """
    checkpoints, metrics = folder / CHECKPOINTS, folder / "metrics.jsonl"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for torn in checkpoints.glob(".*.ckpt"):  # what was being written when a process was killed
        forget(torn)
    if resumed is None:
        for left in (metrics, *checkpoints.glob("*.ckpt")):
            forget(left)
    elif metrics.exists():
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        write(metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= resumed.step))


def _step_of(line: str) -> float:
    """Infinite for what a crash tore."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@dataclass
class Checkpoints(L.Callback):
    """After each evaluation, every so many minutes and when the user ends it; comes last, as all has been decided then.

    Between optimiser steps alone, where no gradients wait.
    """

    folder: Path
    minutes: float
    started: float
    evaluations: Evaluations
    ending: Ending
    stopping: Stopping
    data: str = ""
    resumed: Resumed | None = None

    def __post_init__(self) -> None:
        self._saved = time.monotonic()
        self._ended: str | None = None
        self._best_before = self.evaluations.best_epoch

    def on_train_start(self, trainer: L.Trainer, task: Task) -> None:  # type: ignore[override]
        self._saved = time.monotonic()
        if self.resumed is not None:
            task.go_on_from(self.resumed.task)
            set_random_states(self.resumed.random)
        elif share().rank:
            torch.manual_seed(torch.initial_seed() + share().rank)  # or all would drop out the same

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if agreed(self._is_due)[0]:
            self._save(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Not after the last of an epoch: an evaluation follows, or the next epoch begins."""
        if trainer.is_last_batch or not ends_a_step(trainer):
            return
        due = agreed(self._is_due)[0]
        if self.ending.reason == INTERRUPTED or (due and not trainer.should_stop):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = self._end(trainer)
        self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, task: Task, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        epochs, batches = _position(trainer)
        checkpoint["classes"] = list(task.classes)
        checkpoint["loops"] = {"fit_loop": _loops(trainer, epochs, batches)}
        checkpoint[_OURS] = {
            "version": _VERSION,
            "epochs": epochs,
            "batches": batches,
            "step": trainer.global_step,
            "seconds": time.monotonic() - self.started,
            "ended": self._ended,
            "reason": self.stopping.reason,
            "data": self.data,
            "evaluations": self.evaluations.state(),
            "processes": each({"task": task.training_state(), "random": random_states()}),
        }

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= self.minutes * _MINUTE

    def _end(self, trainer: L.Trainer) -> str | None:
        """The status of a training that does nothing more after this evaluation, unless the user ended it."""
        if self.ending.reason not in (None, INTERRUPTED):
            return self.ending.reason
        if self.stopping.reason is not None:
            return PRUNED
        if self.evaluations.stopped_early:
            return STOPPED_EARLY
        return COMPLETED if self.evaluations.epochs >= (trainer.max_epochs or 0) else None

    def _save(self, trainer: L.Trainer) -> None:
        folder = self.folder / CHECKPOINTS
        trainer.save_checkpoint(folder / LAST)
        best = self.evaluations.best_epoch
        needed = {kept_best(epoch) for epoch in (self._best_before, best) if epoch is not None}
        for left in folder.glob("best_*.ckpt") if is_first() else ():
            if left.name not in needed:
                forget(left)
        self._best_before, self._saved = best, time.monotonic()


def _position(trainer: L.Trainer) -> tuple[int, int]:
    """The epochs that are over, and the batches that are done of the next one."""
    batches, epochs = trainer.fit_loop.epoch_loop.batch_progress, trainer.fit_loop.epoch_progress.current
    begun = int(epochs.started)  # type: ignore[attr-defined]  # of its own kind of tracker
    if batches.is_last_batch or batches.current.ready == 0:
        return begun, 0
    return begun - 1, batches.current.ready


def _loops(trainer: L.Trainer, epochs: int, batches: int) -> dict[str, Any]:
    """Lightning's progress as it is between two batches: what it would write differs from hook to hook."""
    loop = trainer.fit_loop
    begun = epochs + bool(batches)
    epoch = {"ready": begun, "started": begun, "processed": epochs, "completed": epochs}
    every = loop.epoch_loop.batch_progress.total.ready
    state = {name: value for name, value in loop.state_dict().items() if ".val_loop." not in name}
    return {
        **state,
        "state_dict": {},
        "epoch_progress": {"total": epoch, "current": epoch},
        "epoch_loop.state_dict": {"_batches_that_stepped": trainer.global_step},
        "epoch_loop.batch_progress": {"total": _done(every), "current": _done(batches), "is_last_batch": False},
    }


def _done(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
