"""torchvision's detectors as VisionModels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lav_timm.weights import published_weights
from lav_torchvision.answers import DetectorAnswers
from lav_torchvision.architectures import ARCHITECTURES, RESNET_GROUPS
from lav_torchvision.backbones import timm_body, timm_groups
from lav_torchvision.networks import branching, build_network, for_other_runtimes, scorer
from lav_torchvision.settings import DetectorConfig, MaskDetectorConfig
from lav_torchvision.weights import load_published, pretrained_body, renamed
from lightning_automl_vision.data.resizing import ShortSide
from lightning_automl_vision.export.graph import OBJECTS, SIDES, Graph, threshold_input
from lightning_automl_vision.models import B, Batch, BoxTargets, D, Detector, MaskTargets
from lightning_automl_vision.samples import ScoredBoxes, ScoredMasks

SEED_OF_EVALUATION = 0
# The layers that answer; 8 bits are too few for pixels.
SENSITIVE = tuple(
    f"network.{part}"
    for part in ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits", "head")
)


class TorchvisionDetector(Detector[B, D]):
    """``background`` is how many classes of the network come before those that are asked for."""

    classes_by_anchor = ("head.classification_head.cls_logits.",)
    mask_pixel_score_threshold: float | None = None

    def __init__(
        self, network: nn.Module, options: DetectorConfig, *, background: int, freezable: tuple[tuple[str, ...], ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.background = background
        self.freezable = freezable
        self.box_detections_per_image = options.box_detections_per_image
        self.nms_iou_threshold = options.nms_iou_threshold
        self.resizing = ShortSide(minimum=options.min_size, maximum=options.max_size)

    @property
    def box_score_threshold(self) -> float:
        return float(scorer(self.network).score_thresh)

    @box_score_threshold.setter
    def box_score_threshold(self, threshold: float) -> None:
        scorer(self.network).score_thresh = threshold

    def losses(self, batch: Batch[B]) -> dict[str, Tensor]:
        if self.training:
            return self._losses(batch)
        with _as_in_training(self.network, batch.images.device):
            return self._losses(batch)

    def _losses(self, batch: Batch[B]) -> dict[str, Tensor]:
        losses = self.network(_pictures(batch), self._truth(batch))
        return {name.removeprefix("loss_"): loss for name, loss in losses.items()}

    def _truth(self, batch: Batch[B]) -> list[dict[str, Tensor]]:
        """What torchvision learns from, picture by picture: objects that have an extent, and apart from them crowds."""
        targets, truth = batch.targets, []
        fields = zip(*map(targets.split, (targets.labels, targets.boxes, targets.crowd)), strict=True)
        for (labels, boxes, crowd), shapes in zip(fields, self._shapes(batch), strict=True):
            objects = _have_extent(boxes) & ~crowd
            values = {"labels": labels + self.background, "boxes": boxes, **shapes}
            truth.append({"crowds": boxes[crowd], **{name: value[objects] for name, value in values.items()}})
        return truth

    def _shapes(self, batch: Batch[B]) -> list[dict[str, Tensor]]:
        """What the truth of each picture has beside boxes."""
        return [{} for _ in range(len(batch))]

    def predict(self, batch: Batch[B]) -> list[D]:
        answers, scored = zip(self.network(_pictures(batch)), batch.picture_sizes, strict=True), self.answers.scored
        found: Any = [scored({name: _array(value) for name, value in one.items()}, *size) for one, size in answers]
        return list(found)

    @property
    def answers(self) -> DetectorAnswers:
        return DetectorAnswers(
            score_threshold=self.box_score_threshold,
            most=self.box_detections_per_image,
            background=self.background,
            pixel_threshold=self.mask_pixel_score_threshold,
        )

    def graph(self, choices: Mapping[str, str]) -> Graph:
        """Its suppression of boxes is part of it, as is how many objects the heads answer with at most."""
        for_other_runtimes(self.network)
        normalizing: Any = self.network.transform
        outputs = ("boxes", "labels", "scores", *(() if self.mask_pixel_score_threshold is None else ("masks",)))
        return Graph(
            module=DetectionGraph(self.network, outputs),
            more=threshold_input(self.box_score_threshold),
            outputs=dict.fromkeys(outputs, OBJECTS),
            mean=tuple(255 * value for value in normalizing.image_mean),
            std=tuple(255 * value for value in normalizing.image_std),
            axes=SIDES,
            branching=True,
            fixed={"nms_iou_threshold": self.nms_iou_threshold},
            sensitive=SENSITIVE,
            at_most={"box_detections_per_image": self.box_detections_per_image},
        )

    def backbone(self) -> nn.Module:
        return self.network

    def compilable(self) -> Sequence[nn.Module]:
        """What comes after it goes by how many objects there are."""
        backbone: Any = self.network.backbone
        return [backbone]

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return renamed(self.network, tensors)

    def train(self, mode: bool = True) -> Self:
        """Norms whose weights are not trained keep their statistics too."""
        super().train(mode)
        for norm in _norms(self):
            if not any(weight.requires_grad for weight in norm.parameters()):
                norm.eval()
        return self


class BoxDetector(TorchvisionDetector[BoxTargets, ScoredBoxes]):
    pass


class MaskDetector(TorchvisionDetector[MaskTargets, ScoredMasks]):
    """``max_number_of_polygon_points`` is for whoever writes its answers as polygons."""

    def __init__(self, network: nn.Module, options: MaskDetectorConfig, **layout: Any) -> None:
        super().__init__(network, options, **layout)
        self.mask_pixel_score_threshold = options.mask_pixel_score_threshold
        self.max_number_of_polygon_points = options.max_number_of_polygon_points

    def _shapes(self, batch: Batch[MaskTargets]) -> list[dict[str, Tensor]]:
        return [{"masks": masks} for masks in batch.targets.masks(batch.picture_sizes)]


class DetectionGraph(nn.Module):
    """A network that is told the lowest score of an answer with the picture; it answers in the order of ``outputs``."""

    def __init__(self, network: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.outputs = tuple(outputs)

    def forward(self, images: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        scorer(self.network).score_thresh = score_threshold
        (found,) = self.network([images])
        return tuple(found[name] for name in self.outputs)


def build(
    *, name: str, task: str, num_classes: int, image_size: int, **parameters: Any
) -> TorchvisionDetector[Any, Any]:
    """The size of pictures is the model's own matter, and its task is that of its family."""
    architecture = ARCHITECTURES[name]
    options = architecture.config(name=name, **parameters)
    body, normal = _timm_body(options)
    network = build_network(architecture, options, classes=num_classes, body=body, **normal)
    if options.pretrained and body is None:
        load_published(network, name)
    if options.pretrained if options.freeze_norms is None else options.freeze_norms:
        _freeze_norms(network)
    layout: dict[str, Any] = {
        "background": architecture.family.background,
        "freezable": RESNET_GROUPS if body is None else timm_groups(body),
    }
    if isinstance(options, MaskDetectorConfig):
        return MaskDetector(network, options, **layout)
    return BoxDetector(network, options, **layout)


builders = SimpleNamespace(**{name: partial(build, name=name) for name in ARCHITECTURES})


def _timm_body(options: DetectorConfig) -> tuple[nn.Module | None, dict[str, Any]]:
    """The network that takes the ResNet's place, if any, and the mean and deviation of the pictures it knows."""
    if options.backbone is None:
        return None, {}
    published = published_weights(options.backbone, key="model.backbone")
    body = pretrained_body(options.backbone) if options.pretrained else timm_body(options.backbone)
    return body, {"mean": published.mean, "std": published.std}


def _freeze_norms(network: Any) -> None:
    for norm in _norms(network.backbone.body):
        norm.requires_grad_(False)


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    """Those that keep statistics and have weights."""
    return (part for part in module.modules() if isinstance(part, _NormBase) and any(True for _ in part.parameters()))


def _pictures(batch: Batch[Any]) -> list[Tensor]:
    """From 0 to 1, without what pads them."""
    return [
        image[:, :height, :width] / 255
        for image, (width, height) in zip(batch.images, batch.picture_sizes, strict=True)
    ]


def _array(values: Tensor) -> NDArray[Any]:
    """As numpy, which has no bfloat16."""
    exact = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    return exact.cpu().numpy()


def _have_extent(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


@contextmanager
def _as_in_training(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The losses of an evaluation: norms and the like stay as they are, and the same examples are drawn each time."""
    parts = branching(network)
    modes = [part.training for part in parts]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(SEED_OF_EVALUATION)
        for cuda in devices:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(SEED_OF_EVALUATION)
        try:
            for part in parts:
                part.training = True
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode
