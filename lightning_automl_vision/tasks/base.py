"""What every task does with a model: sum its losses, collect its predictions, publish both once an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.models import Batch, Targets, VisionModel
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.training.freezing import keep_frozen
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.schedules import factor_of

T = TypeVar("T", bound=Targets)
P = TypeVar("P")


def _moving_average(decay: float) -> Any:
    average: Any = get_ema_multi_avg_fn  # untyped in torch
    return average(decay)


class VisionTask(L.LightningModule, ABC, Generic[T, P]):
    """Losses are added up on the device and read once an evaluation: a logged scalar costs as much as a whole step."""

    primary_metric: str
    mode = "max"

    def __init__(self, model: VisionModel[T, P], training: TrainingConfig, classes: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.config = training
        self.classes = tuple(classes)
        self.averaged = (
            AveragedModel(model, multi_avg_fn=_moving_average(training.ema_decay), use_buffers=True)
            if training.ema_decay
            else None
        )
        self.metrics: Mapping[str, float] = {}
        self._losses: dict[str, Tensor] = {}
        self._steps = 0

    @property
    def evaluated(self) -> VisionModel[T, P]:
        """The weights that are validated and saved."""
        if self.averaged is None:
            return self.model
        module: Any = self.averaged.module
        evaluated: VisionModel[T, P] = module
        return evaluated

    @abstractmethod
    def collect(self, predictions: Sequence[P], batch: Batch[T]) -> None:
        """Keep what the metrics need of a batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Every metric over all that was collected, which is forgotten."""

    def training_step(self, batch: Batch[T], _: int) -> Tensor:
        losses = self.model.losses(batch)
        for name, loss in losses.items():
            previous = self._losses.get(name)
            self._losses[name] = loss.detach() if previous is None else previous + loss.detach()
        self._steps += 1
        return torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))

    def validation_step(self, batch: Batch[T], _: int) -> None:
        self.collect(self.evaluated.predict(batch), batch)

    def on_validation_epoch_end(self) -> None:
        self.metrics = self.compute()

    def training_losses(self) -> dict[str, float]:
        """The mean of each loss since it was last asked for; TrainingError if one is not finite."""
        means = {name: float(total) / self._steps for name, total in self._losses.items()}
        self._losses, self._steps = {}, 0
        faulty = [name for name, mean in means.items() if not -float("inf") < mean < float("inf")]
        if faulty:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise TrainingError(
                f"The {faulty[0]} loss is not finite in epoch {self.current_epoch + 1}, by step {self.global_step},"
                f" with the learning rate at {rate:.3g}. Lower training.learning_rate={self.config.learning_rate:g},"
                " set training.gradient_clip=1, or raise training.warmup_cosine_lr_warmup_epochs."
            )
        return means

    def train(self, mode: bool = True) -> VisionTask[T, P]:
        super().train(mode)
        if mode:
            keep_frozen(self.model)
        return self

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model.parameters(), self.config)
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        per_epoch = max(-(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches), 1)
        factor = factor_of(self.config, steps_per_epoch=int(per_epoch), total=total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
