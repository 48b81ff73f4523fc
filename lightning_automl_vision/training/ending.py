"""What ends training before its last epoch: the time limit, the step limit, the user."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import lightning as L

from lightning_automl_vision.log import LOG
from lightning_automl_vision.process import requests_to_end
from lightning_automl_vision.training.gathering import agreed, is_connected

COMPLETED, STOPPED_EARLY, TIMEOUT, INTERRUPTED = "completed", "stopped_early", "timeout", "interrupted"
# Where a training that is done once more ended, though its schedule went on: the optimiser step, for this thread.
LAST_STEP: ContextVar[int | None] = ContextVar("last_step", default=None)


@dataclass
class Ending(L.Callback):
    """Asks the trainer to stop after the current step, and evaluates what is there unless the user is waiting."""

    seconds: float
    started: float
    max_steps: int | None = None
    reason: str | None = None
    _asked: bool = field(default=False, init=False)
    _listens: bool = field(default=False, init=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has put a handler of its own around ours, and would raise in the middle of a step."""
        if threading.current_thread() is threading.main_thread() and self._listens:
            signal.signal(signal.SIGTERM, self._interrupted)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        over = self._agree()
        if self.reason == INTERRUPTED:
            if ends_a_step(trainer):
                self._stop_now(trainer)
        elif self.max_steps is not None and trainer.global_step >= self.max_steps:
            self._stop_after_evaluation(trainer, COMPLETED)
        elif over and not _is_last_step(trainer):
            self._stop_after_evaluation(trainer, TIMEOUT)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Time that an evaluation used up need not cost another step and another evaluation."""
        over = self._agree()
        if self.reason == INTERRUPTED:
            self._stop_now(trainer)
        elif over and self.reason is None and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self.reason = TIMEOUT
            trainer.should_stop = True

    def _agree(self) -> bool:
        """Whether the time is over; of several processes, for any of them, and so with what the user asks one of."""
        interrupted, over = agreed(self._asked, time.monotonic() - self.started > self.seconds)
        if interrupted:
            self.reason = INTERRUPTED
        return over

    def settle(self) -> None:
        """Called after training: what was asked since its last evaluation counts as well."""
        self._agree()

    def _stop_after_evaluation(self, trainer: L.Trainer, reason: str) -> None:
        self.reason = reason
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = True

    def _stop_now(self, trainer: L.Trainer) -> None:
        trainer.limit_val_batches = 0
        trainer.should_stop = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first Ctrl-C, or a scheduler's request to end, ends training in order, a second one at once."""
        with requests_to_end(self._interrupted):
            self._listens = True
            try:
                yield
            except (KeyboardInterrupt, SystemExit):  # the trainer turns the one into the other
                if threading.current_thread() is not threading.main_thread():
                    raise
                if is_connected():  # the others are in the middle of something, and cannot be asked anything any more
                    raise KeyboardInterrupt from None
                self.reason = INTERRUPTED

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        LOG.warning("Interrupted: training ends after this step. Once more ends it at once.")


def ends_a_step(trainer: L.Trainer) -> bool:
    """Whether the batch that was trained on last is the last of those whose gradients are added up."""
    return trainer.is_last_batch or (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0


def _is_last_step(trainer: L.Trainer) -> bool:
    return trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
