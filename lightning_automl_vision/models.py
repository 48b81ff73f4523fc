"""What a model plugin implements: named losses while training, plain predictions afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.samples import Place, Polygons, ScoredBoxes, ScoredLabels

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import LabelledImages
    from lightning_automl_vision.export.graph import Graph

T = TypeVar("T", bound="Targets")
P = TypeVar("P")
B = TypeVar("B", bound="BoxTargets")
D = TypeVar("D", bound=ScoredBoxes)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The truth of a batch: N class indices, or N x C zeros and ones when an image may have several labels."""

    labels: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, labels=function(self.labels))

    def part(self, places: slice) -> Self:
        """The truth of some pictures, one after the other in the batch."""
        return replace(self, labels=self.labels[places])


@dataclass(frozen=True, kw_only=True)
class BoxTargets(Targets):
    """The objects of all pictures in one row: M class indices, M x 4 corners in pixels of their picture, M crowd flags.

    ``counts`` says how many of them belong to the first picture, to the second, and so on.
    """

    boxes: Tensor
    crowd: Tensor
    counts: tuple[int, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, labels=function(self.labels), boxes=function(self.boxes), crowd=function(self.crowd))

    def part(self, places: slice) -> Self:
        objects = self.objects(places)
        values = {name: getattr(self, name)[objects] for name in ("labels", "boxes", "crowd")}
        return replace(self, **values, counts=self.counts[places])

    def objects(self, places: slice) -> slice:
        """Where the objects of some pictures are in the row."""
        first = sum(self.counts[: places.start])
        return slice(first, first + sum(self.counts[places]))

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values of all objects, picture by picture."""
        return torch.split(values, list(self.counts))


@dataclass(frozen=True, kw_only=True)
class MaskTargets(BoxTargets):
    """With the polygons of each object, in pixels of its picture; masks are drawn when they are asked for."""

    polygons: Polygons

    def part(self, places: slice) -> Self:
        return replace(super().part(places), polygons=self.polygons[self.objects(places)])

    def masks(self, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """For each picture of this width and height its objects' N x H x W zeros and ones, where the boxes are."""
        drawn, first = [], 0
        for (width, height), count in zip(sizes, self.counts, strict=True):
            masks = torch.zeros((count, height, width), dtype=torch.uint8)
            for mask, parts in zip(masks.numpy(), self.polygons[first : first + count], strict=True):
                crop = draw_polygons(parts, width, height)
                rows, columns = crop.pixels.shape
                mask[crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.pixels
            drawn.append(masks.to(self.boxes.device, non_blocking=True))
            first += count
        return drawn


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[T]):
    """N x 3 x H x W uint8 RGB pictures, their truth, and the name of each in logs and predictions.

    ``sizes`` are width and height of each picture, which lies at the top left of its H x W; none are given where every
    picture fills it. ``indices`` say which samples of the data set they are, ``places`` where each whole image lies in
    its picture, ``dropped`` how many objects augmentation left out; N x 3 ``gains`` of hue, saturation and brightness
    are still to be applied. With ``windows`` each picture shows that part of its image. ``missed`` says why others
    could not be read.
    """

    images: Tensor
    targets: T
    keys: Sequence[str]
    sizes: Sequence[tuple[int, int]] = ()
    indices: Sequence[int] = ()
    places: Sequence[Place] = ()
    dropped: int = 0
    gains: Tensor | None = None
    windows: Sequence[Window] = ()
    missed: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def picture_sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of every picture, whether it fills its tensor or not."""
        height, width = self.images.shape[-2:]
        return self.sizes or [(int(width), int(height))] * len(self)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        gains = None if self.gains is None else function(self.gains)
        return replace(self, images=function(self.images), targets=self.targets.map(function), gains=gains)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        return self.map(Tensor.pin_memory)


class VisionModel(nn.Module, ABC, Generic[T, P]):
    """A network that can be trained and asked, apart from any trainer.

    ``freezable`` are the groups of parameter-name prefixes that ``training.layers_to_freeze`` counts, first to last.
    ``resizing`` is how the model wants its pictures prepared; None leaves it to the configuration.
    ``classes_by_anchor`` are beginnings of the names, in ``backbone``, of tensors in which each anchor has all classes,
    where else each class has all its rows together.
    ``summed_over_images`` says that a step's gradient is the sum over its images of the gradient of the losses' sum,
    not the mean over its batches.
    """

    freezable: tuple[tuple[str, ...], ...] = ()
    resizing: Resizing | None = None
    summed_over_images: bool = False
    classes_by_anchor: tuple[str, ...] = ()

    @abstractmethod
    def losses(self, batch: Batch[T]) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised; in evaluation mode they are the validation losses."""

    @abstractmethod
    def predict(self, batch: Batch[T]) -> list[P]:
        """One numpy prediction for each image, in order; called in evaluation mode, leaves the batch as it is."""

    def prepare(self, images: LabelledImages[Any], folder: Path) -> None:
        """Look at the training set, once, before the first step; what is to be seen goes into the folder."""

    def for_prediction(self) -> None:
        """Become as quick as can be: called once, after loading, by whoever will never train this."""

    def graph(self, choices: Mapping[str, str]) -> Graph:
        """What it computes of tensors alone, for other runtimes; ``choices`` are its own options of ``lav export``.

        Called in evaluation mode and after ``for_prediction``; the model is not used again afterwards.
        """
        raise ConfigError(
            f"{type(self).__name__} has no method `graph`, which says what other runtimes are to compute."
            " Ask the author of its plugin for it."
        )

    def backbone(self) -> nn.Module:
        """The part that a state dict given as ``model.weights`` is loaded into."""
        return self

    def compilable(self) -> Sequence[nn.Module]:
        """The parts that ``trainer.compile`` compiles: those whose work depends on the shapes of tensors alone."""
        return [self.backbone()]

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of such a file by their names in ``backbone``, where older or other files call them otherwise."""
        return tensors


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

    def graph(self, choices: Mapping[str, str]) -> Graph:
        from lightning_automl_vision.export.graph import BATCH, SIDES, Graph

        return Graph(
            module=self.network,
            axes={**BATCH, **SIDES},
            outputs={"logits": BATCH},
            mean=tuple(self.mean.flatten().tolist()),
            std=tuple(self.std.flatten().tolist()),
        )

    def backbone(self) -> nn.Module:
        return self.network


class Detector(VisionModel[B, D]):
    """A network that finds objects; its pictures come padded on the right and below, as ``Batch.sizes`` says.

    ``predict`` answers in pixels of the prepared picture, best score first, with scores strictly greater than
    ``box_score_threshold``, which may be set from outside; crowd boxes are no truth and no background to ``losses``.
    """

    box_score_threshold: float
