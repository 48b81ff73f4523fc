"""Auto-anchor: whether the anchors suit the objects of a training set, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lav_yolov5.anchor_chart import listed
from lav_yolov5.anchors import AnchorChoice, choose_anchors, draw_anchors
from lav_yolov5.layers import Head
from lav_yolov5.settings import YoloV5Config
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.samples import FloatArray

PICTURE = "anchors.png"
# Fewer objects in reach than this is worth a warning.
_ENOUGH = 0.5


def fit_anchors(head: Head, images: LabelledImages[Any], folder: Path, options: YoloV5Config) -> None:
    """Adopt better anchors where there are some; what was found is logged, and drawn into the folder."""
    sizes = object_sizes(images, options.image_size)
    if not len(sizes):
        LOG.warning("%s: there is no object to learn, only background.", images.source)
        return
    strides = torch.tensor(head.strides, device=head.anchors.device).view(-1, 1, 1)
    current = (head.anchors * strides).double().cpu().numpy().reshape(-1, 2)
    choice = choose_anchors(
        sizes,
        current,
        threshold=options.anchor_threshold,
        image_size=options.image_size,
        generator=np.random.default_rng(torch.initial_seed()),
    )
    if choice.adopted:
        with torch.no_grad():
            head.anchors.copy_(torch.from_numpy(choice.anchors).view(head.anchors.shape) / strides.cpu())
    _check_reach(choice, sizes, options)
    LOG.info(
        "Anchors: %.1f %% of %d objects are in reach%s.",
        100 * choice.before.recall,
        len(sizes),
        _outcome(choice),
    )
    draw_anchors(choice, sizes, current, folder / PICTURE)


def _check_reach(choice: AnchorChoice, sizes: FloatArray, options: YoloV5Config) -> None:
    """An object that no anchor reaches is background to the losses; what cannot be learnt at all is refused."""
    reached = choice.after.recall if choice.adopted else choice.before.recall
    if reached > _ENOUGH:
        return
    width, height = np.median(sizes, axis=0)
    complaint = (
        f"Anchors reach {100 * reached:.1f} % of the {len(sizes)} objects, whose median is {width:.1f} x {height:.1f}"
        f" pixels at model.image_size={options.image_size}; what they do not reach is not learnt. Raise"
        f" model.image_size or model.anchor_threshold={options.anchor_threshold:g}."
    )
    if not reached:
        raise DataError(complaint)
    LOG.warning(complaint)


def object_sizes(images: LabelledImages[Any], image_size: int) -> FloatArray:
    """Width and height of every object in pixels, where the long side of its image has ``image_size``; no crowds."""
    sizes = [np.zeros((0, 2))]
    for sample, header in zip(images.samples, images.headers, strict=True):
        sides = np.array((header.width, header.height)) * (image_size / max(header.width, header.height))
        boxes = sample.target.boxes[~sample.target.crowd]
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * sides)
    return np.concatenate(sizes)


def _outcome(choice: AnchorChoice) -> str:
    if not choice.adopted:
        return "; they are kept"
    anchors = listed(choice.anchors.reshape(-1, 2))
    return f", and {100 * choice.after.recall:.1f} % of new ones, which take their place: {anchors}"
