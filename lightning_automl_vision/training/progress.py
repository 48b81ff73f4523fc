"""A progress bar over all steps of a run, refreshed by time: in between a step costs it two comparisons."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from tqdm import tqdm

from lightning_automl_vision.tasks.base import VisionTask

_EVERY = 0.2


class Progress(L.Callback):
    """For terminals; elsewhere the line after each evaluation is what is shown.

    Comes before whatever prints after an evaluation, so that the bar is out of its way.
    """

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._done = 0
        self._next = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Without smoothing the time left includes the evaluations' share.
        self._done = trainer.fit_loop.epoch_loop.batch_progress.total.completed  # of an earlier attempt
        self._bar = tqdm(
            total=batches_of(trainer),
            initial=self._done,
            unit="batch",
            file=sys.stderr,
            smoothing=0,
            dynamic_ncols=True,
        )
        self._bar.leave = False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._done += 1
        now = time.monotonic()
        if now < self._next or self._bar is None:
            return
        self._next = now + _EVERY
        self._bar.set_description(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", refresh=False)
        if isinstance(pl_module, VisionTask):
            self._bar.set_postfix(figures(pl_module), refresh=False)
        self._bar.n = self._done
        self._bar.refresh()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description(f"evaluating epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.clear()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def batches_of(trainer: L.Trainer) -> int:
    """How many batches the whole run trains on, unless it is stopped."""
    batches = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
    if trainer.max_steps and trainer.max_steps > 0:
        batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
    return batches


def figures(task: VisionTask[Any, Any]) -> dict[str, str]:
    """The last loss, and the primary metric once there was an evaluation."""
    loss = {} if task.last_loss is None else {"loss": f"{float(task.last_loss):.4f}"}
    value = task.metrics.get(task.primary_metric)
    return loss if value is None else {**loss, task.primary_metric: f"{value:.4f}"}
