"""What a model plugin implements: named losses while training, plain predictions afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from lightning_automl_vision.samples import ScoredLabels

T = TypeVar("T", bound="Targets")
P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The truth of a batch: N class indices, or N x C zeros and ones when an image may have several labels."""

    labels: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, labels=function(self.labels))


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[T]):
    """N x 3 x H x W uint8 RGB pictures, their truth, and the name of each in logs and predictions."""

    images: Tensor
    targets: T
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, images=function(self.images), targets=self.targets.map(function))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        return self.map(Tensor.pin_memory)


class VisionModel(nn.Module, ABC, Generic[T, P]):
    """A network that can be trained and asked, apart from any trainer.

    ``freezable`` are the groups of parameter-name prefixes that ``training.layers_to_freeze`` counts, first to last.
    """

    freezable: tuple[tuple[str, ...], ...] = ()

    @abstractmethod
    def losses(self, batch: Batch[T]) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised; called in training mode."""

    @abstractmethod
    def predict(self, batch: Batch[T]) -> list[P]:
        """One numpy prediction for each image, in order; called in evaluation mode, leaves the batch as it is."""

    def backbone(self) -> nn.Module:
        """The part that a state dict given as ``model.weights`` is loaded into."""
        return self


@dataclass(frozen=True, kw_only=True)
class ClassificationLoss:
    """Cross-entropy over classes, or binary cross-entropy per class; weights and smoothing as the run asks."""

    multilabel: bool
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        if not self.multilabel:
            return nn.functional.cross_entropy(logits, labels, weight=weights, label_smoothing=self.label_smoothing)
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, smoothed, weight=weights)


class Classifier(VisionModel[Targets, ScoredLabels]):
    """Any network that maps normalised N x 3 x H x W pictures to N x C logits."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        multilabel: bool,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        freezable: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.freezable = freezable
        self.loss = ClassificationLoss(multilabel=multilabel)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images.to(self.mean.dtype) - self.mean) / self.std)
        return logits

    def losses(self, batch: Batch[Targets]) -> dict[str, Tensor]:
        return {"classification": self.loss(self(batch.images), batch.targets.labels)}

    def predict(self, batch: Batch[Targets]) -> list[ScoredLabels]:
        logits = self(batch.images).float()
        scores = logits.sigmoid() if self.loss.multilabel else logits.softmax(dim=1)
        return [ScoredLabels(scores=row) for row in scores.cpu().numpy()]

    def backbone(self) -> nn.Module:
        return self.network
