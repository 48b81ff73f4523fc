"""yolov5 as a VisionModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lav_torchvision.backbones import timm_groups
from lav_torchvision.weights import renamed
from lav_yolov5.backbones import timm_features
from lav_yolov5.folding import fold_norms
from lav_yolov5.loss import LossOptions, YoloLoss, scaled
from lav_yolov5.network import STRIDES, Network
from lav_yolov5.pictures import framed, rescaled
from lav_yolov5.rectangles import Rectangle, Sizes, alike, corner, rectangle_around
from lav_yolov5.settings import YoloV5Config
from lav_yolov5.sizes import GROUPS, SIZES
from lav_yolov5.suppression import Found, suppressed
from lav_yolov5.weights import check_image_size
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.resizing import LongSide
from lightning_automl_vision.export.graph import Graph
from lightning_automl_vision.models import Batch, BoxTargets, Detector
from lightning_automl_vision.samples import ScoredBoxes


class YoloV5(Detector[BoxTargets, ScoredBoxes]):
    summed_over_images = True
    classes_by_anchor = ("",)  # only the head has classes

    def __init__(
        self, network: Network, options: YoloV5Config, *, classes: int, freezable: tuple[tuple[str, ...], ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.freezable = freezable
        self.box_score_threshold = options.box_score_threshold
        self.resizing = LongSide(size=options.image_size)
        self.loss = YoloLoss(loss_options(options, classes=classes), classes)

    def losses(self, batch: Batch[BoxTargets]) -> dict[str, Tensor]:
        rectangle = rectangle_around(batch.picture_sizes)
        pictures = self._shares(framed(batch.images, batch.picture_sizes, rectangle))
        if self.training and self.options.multi_scale:
            pictures = rescaled(pictures, self.options.image_size)
        truth = truth_of(batch, rectangle).to(pictures.dtype)
        losses: dict[str, Tensor] = self.loss(self.network(pictures), truth, self.network.head.anchors)
        return losses

    def predict(self, batch: Batch[BoxTargets]) -> list[ScoredBoxes]:
        """Each picture in the smallest rectangle for it, so that its answer is the same in any company."""
        sizes = batch.picture_sizes
        answers: dict[int, ScoredBoxes] = {}
        for rectangle, members in alike(sizes).items():
            images = batch.images if len(members) == len(batch) else batch.images[members]
            found = self._found(images, [sizes[index] for index in members], rectangle)
            answers |= zip(members, found, strict=True)
        return [answers[index] for index in range(len(batch))]

    def _found(self, images: Tensor, sizes: Sequence[tuple[int, int]], rectangle: Rectangle) -> Iterator[ScoredBoxes]:
        maps = self.network(self._shares(framed(images, sizes, rectangle)))
        for rows, size in zip(self.network.head.decode_likely(maps, self.box_score_threshold), sizes, strict=True):
            left, top = corner(size, rectangle)
            window = torch.tensor([left, top, left + size[0], top + size[1]])
            (found,) = suppressed(
                rows[None],
                score_threshold=self.box_score_threshold,
                iou_threshold=self.options.nms_iou_threshold,
                most=self.options.box_detections_per_image,
                windows=window[None].to(rows.device),
            )
            yield scored(found, window, size)

    def _shares(self, pictures: Tensor) -> Tensor:
        """From 0 to 1, in the precision of the weights; a CPU is a fifth quicker where channels come last."""
        shares = pictures.to(self.network.head.anchors.dtype) / 255
        return shares.contiguous(memory_format=torch.channels_last) if shares.device.type == "cpu" else shares

    def prepare(self, images: LabelledImages[Any], folder: Path) -> None:
        from lav_yolov5.preparing import fit_anchors  # draws, which prediction never needs

        if self.options.auto_anchor:
            fit_anchors(self.network.head, images, folder, self.options)

    def for_prediction(self) -> None:
        fold_norms(self.network)
        self.network.to(memory_format=torch.channels_last)

    def graph(self, choices: Mapping[str, str]) -> Graph:
        from lav_yolov5.graphs import graph_of

        return graph_of(self.network, self.options, self.box_score_threshold, choices)

    def backbone(self) -> nn.Module:
        return self.network

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return renamed(self.network, tensors) if self.options.backbone is not None else tensors


def scored(found: Found, window: Tensor, size: tuple[int, int]) -> ScoredBoxes:
    """The objects in a window of what the network saw, in its pixels and cut at its border."""
    boxes, scores, labels = (values.cpu() for values in found)
    first, last = window.double().view(2, 2)
    within = boxes.double().view(-1, 2, 2).clamp(min=first, max=last) - first
    return ScoredBoxes(
        labels=labels.numpy(),
        boxes=within.view(-1, 4).numpy(),
        scores=scores.float().numpy(),
        width=size[0],
        height=size[1],
    )


def build(*, task: str, num_classes: int, image_size: int, **parameters: Any) -> YoloV5:
    """``image_size`` is the model's own key."""
    options = YoloV5Config(name="yolov5", image_size=image_size, **parameters)
    check_image_size(options.image_size)
    backbone = options.backbone
    features = None if backbone is None else timm_features(backbone, pretrained=options.pretrained)
    network = Network(SIZES[options.model_size], num_classes, backbone=features)
    groups = GROUPS if features is None else timm_groups(features.body)
    return YoloV5(network, options, classes=num_classes, freezable=groups)


def loss_options(options: YoloV5Config, *, classes: int) -> LossOptions:
    given = LossOptions(
        box_gain=options.box_gain,
        objectness_gain=options.objectness_gain,
        class_gain=options.class_gain,
        class_positive_weight=options.class_positive_weight,
        objectness_positive_weight=options.objectness_positive_weight,
        anchor_threshold=options.anchor_threshold,
        focal_gamma=options.focal_gamma,
        label_smoothing=options.label_smoothing,
        balance_levels=options.balance_levels,
    )
    return scaled(given, classes=classes, image_size=options.image_size, levels=len(STRIDES))


def truth_of(batch: Batch[BoxTargets], rectangle: Rectangle) -> Tensor:
    """A row for each object: image, class, then centre, width and height as shares of the rectangle."""
    targets = batch.targets
    device = targets.boxes.device
    images = torch.repeat_interleave(torch.tensor(targets.counts, dtype=torch.int64)).to(device)
    corners = _corners(batch.picture_sizes, rectangle).to(device)[images]
    first, second = targets.boxes[:, :2], targets.boxes[:, 2:]
    sides = torch.tensor(rectangle[::-1], device=device)
    rows = torch.cat(
        (
            images[:, None],
            targets.labels[:, None],
            ((first + second) / 2 + corners) / sides,
            (second - first) / sides,
        ),
        dim=1,
    )
    return rows[_have_extent(targets.boxes) & ~targets.crowd]


def _corners(sizes: Sizes, rectangle: Rectangle) -> Tensor:
    return torch.tensor([corner(size, rectangle) for size in sizes], dtype=torch.float32)


def _have_extent(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
