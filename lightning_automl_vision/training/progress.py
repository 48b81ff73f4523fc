"""A progress bar over all steps of a run, refreshed by time: a step costs it two comparisons."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from tqdm import tqdm

from lightning_automl_vision.tasks.base import VisionTask

_EVERY = 0.2


class Progress(L.Callback):
    """On a terminal only; elsewhere the line after each evaluation is what is shown."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._done = 0
        self._next = 0.0

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        total = int(trainer.num_training_batches) * int(trainer.max_epochs or 1)
        self._bar = tqdm(total=total, unit="batch", file=sys.stderr, dynamic_ncols=True, leave=False)

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *_: Any) -> None:
        self._done += 1
        now = time.monotonic()
        if now < self._next or self._bar is None:
            return
        self._next = now + _EVERY
        self._bar.set_description(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", refresh=False)
        if isinstance(task, VisionTask) and task.metrics:
            self._bar.set_postfix_str(
                f"{task.primary_metric} {task.metrics.get(task.primary_metric, float('nan')):.4f}", refresh=False
            )
        self._bar.update(self._done - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
