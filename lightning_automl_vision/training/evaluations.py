"""What follows each evaluation: a line in metrics.jsonl, the best and the last checkpoint, the decision to stop."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import finite
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.tasks.base import VisionTask

Trainer = L.Trainer
Task = VisionTask[Any, Any]


@dataclass
class Evaluations(L.Callback):
    """Keeps the first best epoch, and stops after ``patience`` evaluations without a better one.

    Improvement is tracked after the first ``early_stopping_delay`` evaluations: those never count as lacking it.
    """

    folder: Path
    training: TrainingConfig
    epochs: int = 0
    count: int = 0
    without_improvement: int = 0
    best_epoch: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    def on_fit_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        self.best.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        self.epochs += 1
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1  # the last epoch is evaluated in any case

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        self.count += 1
        losses = task.training_losses()
        self._write_line(trainer, task, losses)
        if self._improves(task):
            self.best_epoch, self.best_metrics = trainer.current_epoch + 1, dict(task.metrics)
            self.without_improvement = 0
            best = {
                "epoch": self.best_epoch,
                "step": trainer.global_step,
                "metrics": self.best_metrics,
                "state_dict": task.evaluated.state_dict(),
            }
            save(best, self.best)
        elif self.count > self.training.early_stopping_delay:
            self.without_improvement += 1
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.part")
        os.replace(self.folder / "checkpoints" / "last.part", self.folder / "checkpoints" / "last.ckpt")
        if self.training.early_stopping and self.without_improvement >= self.training.early_stopping_patience:
            self.stopped_early = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        epoch, frequency = trainer.current_epoch + 1, self.training.checkpoint_frequency
        if frequency and epoch % frequency == 0:
            path = self.folder / "checkpoints" / f"epoch_{epoch:04}.ckpt"
            trainer.save_checkpoint(path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)

    def _improves(self, task: Task) -> bool:
        value = task.metrics.get(task.primary_metric, float("nan"))
        previous = self.best_metrics.get(task.primary_metric, float("nan"))
        return self.best_epoch is None or value > previous or (previous != previous and value == value)

    def _write_line(self, trainer: Trainer, task: Task, losses: dict[str, float]) -> None:
        line = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "seconds": round(time.monotonic() - self.started, 3),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{f"loss_{name}": loss for name, loss in losses.items()},
            **task.metrics,
        }
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
        for logger in trainer.loggers:
            values = {name: value for name, value in line.items() if value == value}
            logger.log_metrics(values, step=trainer.global_step)
        LOG.info(
            "epoch %d of %s: %s %.4f, %s",
            line["epoch"],
            trainer.max_epochs,
            task.primary_metric,
            task.metrics.get(task.primary_metric, float("nan")),
            ", ".join(f"{name} loss {loss:.4f}" for name, loss in losses.items()),
        )


def save(values: dict[str, Any], path: Path) -> None:
    """The whole file, or the one that was there before."""
    part = path.with_suffix(".part")
    torch.save(values, part)
    part.replace(path)
