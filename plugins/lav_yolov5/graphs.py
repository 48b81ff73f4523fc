"""The network as other runtimes compute it: up to every cell's guess, or to the boxes that are left of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from lav_yolov5.boxes import corners
from lav_yolov5.network import HEAD, Network
from lav_yolov5.rectangles import STRIDE
from lav_yolov5.settings import YoloV5Config
from lightning_automl_vision.export.graph import BATCH, OBJECTS, SIDES, Graph, threshold_input

_SCALE: dict[str, Any] = {
    "mean": (0.0,) * 3,
    "std": (255.0,) * 3,
    "multiple": STRIDE,
    "sensitive": (f"network.model.{HEAD}",),
}
# Boxes of different classes are moved so far apart, in pixels, that they never meet.
_APART = 7680


def graph_of(network: Network, options: YoloV5Config, score_threshold: float, choices: Mapping[str, str]) -> Graph:
    if choices.get("nms") != "inside":
        return Graph(
            module=Guesses(network), outputs={"guesses": {0: "batch", 1: "cells"}}, axes={**BATCH, **SIDES}, **_SCALE
        )
    return Graph(
        module=Survivors(network, options.nms_iou_threshold),
        more=threshold_input(score_threshold),
        outputs=dict.fromkeys(("boxes", "scores", "labels"), OBJECTS),
        axes=SIDES,
        branching=True,
        fixed={"nms_iou_threshold": options.nms_iou_threshold},
        **_SCALE,
    )


class Guesses(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.head.decode(self.network(images))


class Survivors(nn.Module):
    """Corners, scores and classes of one picture, best first."""

    def __init__(self, network: Network, iou_threshold: float) -> None:
        super().__init__()
        self.network = network
        self.iou_threshold = iou_threshold

    def forward(self, images: Tensor, score_threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        guesses = self.network.head.decode(self.network(images))[0]
        likely = guesses[guesses[:, 4] > score_threshold]
        scores, labels = (likely[:, 5:] * likely[:, 4:5]).max(dim=1)
        chosen = torch.where(scores > score_threshold)[0]
        boxes, scores, labels = corners(likely[:, :4])[chosen], scores[chosen], labels[chosen]
        kept = nms(boxes + (labels * _APART).to(boxes.dtype)[:, None], scores, self.iou_threshold)
        return boxes[kept], scores[kept], labels[kept]
