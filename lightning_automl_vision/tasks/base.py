"""What every task does with a model: sum its losses, collect its predictions, compute the metrics of all images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor

from lightning_automl_vision.data.batching import Truth
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.models import Batch, Targets, VisionModel
from lightning_automl_vision.search.per_image import PerImage
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.task_settings import TaskConfig
from lightning_automl_vision.training.averaging import averaged_weights
from lightning_automl_vision.training.freezing import frozen_norms
from lightning_automl_vision.training.gathering import average, same_tensors
from lightning_automl_vision.training.hsv_on_device import hsv_on_device
from lightning_automl_vision.training.losses import LossMeter
from lightning_automl_vision.training.memory import BatchSizes, Portion, evaluated
from lightning_automl_vision.training.optimizers import make_optimizer, set_pace
from lightning_automl_vision.training.schedules import FADES, WarmUp, factor_of

# The images of a set that one model was judged on, by index, and what that left.
Part = tuple[Sequence[int], Any]
T = TypeVar("T", bound=Targets)
P = TypeVar("P")


class VisionTask(L.LightningModule, ABC, Generic[T, P]):
    """Trains any model. Nothing is logged in a step: one logged scalar costs as much as the whole trainer."""

    primary_metric: str
    lower_is_better = False
    publish_every = 50  # training steps between two lines of a tracker

    def __init__(
        self,
        model: VisionModel[T, P],
        training: TrainingConfig,
        classes: Sequence[str],
        settings: TaskConfig | None = None,
    ) -> None:
        super().__init__()
        if settings is not None:
            self.primary_metric, self.lower_is_better = settings.judged_by, settings.lower_is_better
        self.model = model
        self.config = training
        self.classes = tuple(classes)
        self.averaged = averaged_weights(model, training)
        self.metrics: Mapping[str, float] = {}
        self.last_loss: Tensor | None = None
        self.sizes = BatchSizes()
        self.portion = Portion()  # of the batch that is trained on, in the next step's pictures
        self._meter = LossMeter()
        self._batches = 0
        self._dropped = 0
        self._warm_up: WarmUp | None = None

    @property
    def evaluated(self) -> VisionModel[T, P]:
        """The weights that are validated and saved."""
        averaged: Any = self.model if self.averaged is None else self.averaged.model
        evaluated: VisionModel[T, P] = averaged
        return evaluated

    @property
    @abstractmethod
    def truth(self) -> Truth:
        """What makes the targets of a batch from those of its images."""

    def judge(self, *sets: LabelledImages[Any]) -> None:
        """What the next evaluations are of: a set for each validation loader."""

    def answer(self, model: VisionModel[T, P], batch: Batch[T]) -> list[P]:
        """The predictions that the metrics are computed of."""
        return model.predict(batch)

    def answered(self, model: VisionModel[T, P], batch: Batch[T]) -> list[P]:
        """The same in pieces, where the memory is too small for the whole batch."""
        pieces = evaluated(partial(self.answer, model), batch, self.sizes)
        return [answer for answers in pieces for answer in answers]

    @abstractmethod
    def collect(self, predictions: Sequence[P], batch: Batch[T], loader: int = 0) -> None:
        """Keep what the metrics need of a batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Every metric over all that was collected, by any process, which is forgotten; all are told the same."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """What explains the last evaluation, or after a training the best one, as JSON."""

    def answers(self) -> Iterator[dict[str, Any]]:
        """The predictions of that evaluation, image by image, as JSON."""
        yield from ()

    def per_image(self, images: LabelledImages[Any]) -> PerImage | None:
        """What that evaluation left of each of the images; None where they say nothing of the primary metric."""
        return None

    @abstractmethod
    def left(self) -> Any:
        """What that evaluation left of its images, in their order, for ``pool``."""

    @abstractmethod
    def pool(self, images: LabelledImages[Any], parts: Sequence[Part]) -> dict[str, float]:
        """Every metric over parts of a set that several models were judged on; as if that had been one evaluation."""

    def keep_evaluation(self) -> None:
        """Called when the last evaluation is the best so far."""

    def recall_evaluation(self) -> None:
        """Called after training, when the model holds the best evaluation's weights again."""

    def training_step(self, batch: Batch[T], index: int) -> Tensor:
        if batch.gains is not None:
            batch = replace(batch, images=hsv_on_device(batch.images, batch.gains))
        losses = self.model.losses(batch)
        loss = torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
        self._meter.add(losses, self.portion.of_batch, ends=self.portion.ends)
        self.last_loss = total = loss.detach()
        self._batches += self.portion.ends
        self._dropped += batch.dropped
        if self.portion.ends and self._batches % self.publish_every == 0:
            self._publish(self._meter.recent())
        elif total.device.type == "cpu" and not math.isfinite(total):  # elsewhere looking would mean waiting
            self._refuse(self._meter.recent())
        return loss * self._weight(index, len(batch))

    def _weight(self, index: int, images: int) -> float:
        """What makes of the mean over a gradient accumulation's batches what the model asks for.

        That is the sum over images, or for the short last window, the mean over its own batches.
        """
        window, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        if self.model.summed_over_images:
            return float(window * images * self.trainer.world_size)  # processes take the mean of their gradients
        short = batches % window
        return self.portion.of_batch * (window / short if short and index >= batches - short else 1.0)

    def _publish(self, losses: Mapping[str, float]) -> None:
        self._refuse(losses)
        values = {**named(losses), "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"]}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step)

    def training_losses(self) -> dict[str, float]:
        """The mean of each loss, and of their sum, since this was last asked for."""
        losses = average(self._meter.mean())
        self._refuse(losses)
        return named(losses)

    def counted(self) -> dict[str, int]:
        """What else is told of the training since this was last asked for."""
        return {}

    def _refuse(self, losses: Mapping[str, float]) -> None:
        faulty = next((name for name, loss in losses.items() if not math.isfinite(loss)), None)
        if faulty is None:
            return
        if self.global_step == 0:
            raise TrainingError(
                f"The {faulty} loss is {losses[faulty]} before the first step, so that nothing learnt is at fault."
                " Look at the keys of model that were changed, and at model.weights if any were given."
            )
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise TrainingError(
            f"The {faulty} loss is {losses[faulty]} in epoch {self.current_epoch + 1}, by step {self.global_step + 1},"
            f" with the learning rate at {rate:.3g}. Lower training.learning_rate={self.config.learning_rate:g}, set"
            " training.gradient_clip=1, or raise training.warmup_cosine_lr_warmup_epochs."
        )

    def on_train_epoch_end(self) -> None:
        self._refuse(self._meter.recent())

    def validation_step(self, batch: Batch[T], index: int, dataloader_idx: int = 0) -> None:
        self.collect(self.answered(self.evaluated, batch), batch, dataloader_idx)

    def on_validation_start(self) -> None:
        """What norms have seen differs from process to process after a step; all have them in the same order."""
        same_tensors(*dict.fromkeys((self.model, self.evaluated)))

    def on_validation_epoch_end(self) -> None:
        self.metrics = self.compute()

    def transfer_batch_to_device(self, batch: Batch[T], device: torch.device, dataloader_idx: int) -> Batch[T]:
        return batch.to(device, non_blocking=True)

    def train(self, mode: bool = True) -> VisionTask[T, P]:
        super().train(mode)
        for norm in frozen_norms(self.model, self.config.layers_to_freeze):  # other modules may have taken their places
            norm.eval()
        return self

    def on_train_batch_start(self, batch: Batch[T], batch_idx: int) -> None:
        """With a schedule that has a warm-up, each batch has its own rates, and its own accumulation."""
        if self._warm_up is None:
            return
        done = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        pace = self._warm_up.at(done, self.current_epoch)
        set_pace(self.trainer.optimizers[0], pace)
        if self.config.nominal_batch_size is not None:
            self.trainer.accumulate_grad_batches = pace.accumulated

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.config)
        if self.config.learning_rate_scheduler in FADES:
            self.trainer.estimated_stepping_batches  # noqa: B018  # counts the batches
            self._warm_up = WarmUp.of(self.config, int(self.trainer.num_training_batches))
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)  # counts the batches first
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        factor = factor_of(self.config, steps_per_epoch=max(per_epoch, 1), total=max(total, 1))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_state(self) -> dict[str, Any]:
        """What a training that goes on needs beside weights: plain values and tensors, which asking does not change."""
        return {
            "losses": self._meter.state(),
            "batches": self._batches,
            "dropped": self._dropped,
            "sizes": asdict(self.sizes),
            "batch_size": self.config.training_batch_size,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        self._meter.go_on_from(state["losses"], self.device)
        self._batches, self._dropped = state["batches"], state["dropped"]
        self.sizes = BatchSizes(**state.get("sizes", {}))

    def counted_so_far(self) -> Callable[[], None]:
        """What brings back all that steps count, as it is now."""
        meter, counts = self._meter.copy(), (self._batches, self._dropped)

        def bring_back() -> None:
            self._meter, (self._batches, self._dropped) = meter.copy(), counts

        return bring_back

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        # Lightning does so before a batch whose number the batches of a step divide, which change in a warm-up.
        self.trainer.optimizers[0].zero_grad()
        if self.averaged is not None:
            self.averaged.update(self.model)


def named(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses as they are written: their sum, and each by its name."""
    return {"loss": math.fsum(losses.values()), **{f"loss_{name}": loss for name, loss in losses.items()}}
