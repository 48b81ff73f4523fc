"""What follows each evaluation: a line in metrics.jsonl, the checkpoint of the best, the decision to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import finite
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.storage import append
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.training.checkpoints import keep_as, save
from lightning_automl_vision.training.continuing import BEST, CHECKPOINTS, kept_best
from lightning_automl_vision.training.early_stopping import NAN, EarlyStopping, improves
from lightning_automl_vision.training.gathering import is_first

Task = VisionTask[Any, Any]


@dataclass
class Evaluations(L.Callback):
    """Keeps the first best epoch of all, undefined metrics last, and says when early stopping asks to end.

    ``best_is_held`` where the task still holds what was found in it, which a checkpoint does not.
    """

    folder: Path
    training: TrainingConfig
    started: float
    epochs: int = 0
    best_epoch: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    best_is_held: bool = False

    def __post_init__(self) -> None:
        self._stopping = EarlyStopping(self.training.early_stopping_patience, self.training.early_stopping_delay)

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def best(self) -> Path:
        return self.checkpoints / BEST

    def state(self) -> dict[str, Any]:
        """What the next evaluations depend on, as plain values."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "best_metrics": dict(self.best_metrics),
            "stopped_early": self.stopped_early,
            "early_stopping": asdict(self._stopping),
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        self.epochs, self.stopped_early = state["epochs"], state["stopped_early"]
        self.best_epoch, self.best_metrics = state["best_epoch"], dict(state["best_metrics"])
        self._stopping = EarlyStopping(**state["early_stopping"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An epoch that goes on in its middle begins here."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs = trainer.current_epoch + 1
        if self.epochs == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1  # the last epoch is evaluated in any case

    def on_validation_end(self, trainer: L.Trainer, task: Task) -> None:  # type: ignore[override]
        metrics = {name: float(value) for name, value in task.metrics.items()}
        sign = -1 if task.lower_is_better else 1
        value = sign * metrics.get(task.primary_metric, NAN)
        best = self.best_epoch is None or improves(value, sign * self.best_metrics.get(task.primary_metric, NAN))
        if best:  # before anything says so
            if is_first():
                self._save_best(trainer, task, metrics)
            task.keep_evaluation()
            self.best_epoch, self.best_metrics, self.best_is_held = self.epochs, metrics, True
        self._publish(trainer, task, metrics, best=best)
        if self._stopping.observe(value) and self.training.early_stopping and self.epochs < (trainer.max_epochs or 0):
            self.stopped_early = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        frequency = self.training.checkpoint_frequency
        if frequency and self.epochs % frequency == 0:
            trainer.save_checkpoint(self.checkpoints / f"epoch_{self.epochs:04}.ckpt")

    def _save_best(self, trainer: L.Trainer, task: Task, metrics: dict[str, float]) -> None:
        """Weights only: what is validated, without what training on would need.

        The best so far is kept under another name for the checkpoint that refers to it.
        """
        values = {
            "epoch": self.epochs,
            "step": trainer.global_step,
            "metrics": metrics,
            "classes": list(task.classes),
            "state_dict": task.evaluated.state_dict(),
        }
        if self.best_epoch is not None:
            keep_as(self.best, kept_best(self.best_epoch))
        save(values, self.best)

    def _publish(self, trainer: L.Trainer, task: Task, metrics: dict[str, float], *, best: bool) -> None:
        losses, counted = task.training_losses(), task.counted()  # of all processes, of which one writes
        if not is_first():
            return
        line = {
            "epoch": self.epochs,
            "step": trainer.global_step,
            "seconds": round(time.monotonic() - self.started, 3),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **losses,
            **counted,
            **metrics,
        }
        append(self.folder / "metrics.jsonl", json.dumps(finite(line), allow_nan=False) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in line.items() if value == value}, trainer.global_step)
            logger.save()
        value = metrics.get(task.primary_metric, NAN)
        LOG.info(
            "epoch %d of %s: %s %s%s, loss %.4f, %s, %s left",
            self.epochs,
            trainer.max_epochs,
            task.primary_metric,
            "undefined" if value != value else f"{value:.4f}",
            " (best)" if best and value == value else "",
            losses.get("loss", NAN),
            span(line["seconds"]),
            span(line["seconds"] / self.epochs * ((trainer.max_epochs or 0) - self.epochs)),
        )


def span(seconds: float) -> str:
    """As hours, minutes and seconds, such as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
