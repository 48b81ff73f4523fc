"""What ends training before its last epoch: the time limit, the step limit, the user."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import lightning as L

from lightning_automl_vision.log import LOG


@dataclass
class Ending(L.Callback):
    """Asks the trainer to stop after the current step, and evaluates what is there unless the user is waiting."""

    seconds: float
    started: float
    max_steps: int | None = None
    reason: str | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.reason == "interrupted":
            trainer.should_stop = True
            trainer.limit_val_batches = 0
        elif self.max_steps is not None and trainer.global_step >= self.max_steps:
            self._stop(trainer, "completed")
        elif time.monotonic() - self.started > self.seconds:
            self._stop(trainer, "timeout")

    def _stop(self, trainer: L.Trainer, reason: str) -> None:
        self.reason = reason
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first Ctrl-C ends training in order, a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.reason == "interrupted":
            raise KeyboardInterrupt
        self.reason = "interrupted"
        LOG.warning("Interrupted: training ends after this step. Once more ends it at once.")
