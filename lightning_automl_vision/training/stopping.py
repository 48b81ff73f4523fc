"""A trial that is asked to end by whoever compares it with the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from lightning_automl_vision.log import LOG
from lightning_automl_vision.search.watching import STOP
from lightning_automl_vision.search.watching import TRIAL_FOLDER as FOLDER


@dataclass
class Stopping(L.Callback):
    """Looks for the request after each evaluation, which is then already on disk; every rank hears the same answer.

    Nobody asks a run that is no trial: its ``file`` is None.
    """

    file: Path | None
    reason: str | None = None

    @classmethod
    def of_this_process(cls) -> Stopping:
        folder = os.environ.get(FOLDER)
        return cls(Path(folder) / STOP if folder else None)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.file is None or trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0):
            return  # the training ends here in any case
        self.reason = trainer.strategy.broadcast(_text(self.file) if trainer.is_global_zero else None)
        if self.reason is not None:
            LOG.info("Training ends after this evaluation: %s", self.reason)
            trainer.should_stop = True


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip() or "asked to stop"
    except FileNotFoundError:
        return None
