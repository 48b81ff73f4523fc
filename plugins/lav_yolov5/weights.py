"""What a run can start from: a file by the names of published ones, or timm's weights for a backbone of timm."""

from __future__ import annotations

from typing import Any

from lav_timm.weights import locate, published_weights
from lav_torchvision.backbones import check_backbone
from lightning_automl_vision.errors import ConfigError, WeightsError

COARSEST_STRIDE = 32


def find_weights(*, pretrained: bool, backbone: str | None, image_size: int, **_: Any) -> None:
    """Refuse an unsuitable size or backbone; with ``pretrained``, have the weights on disk when this returns."""
    check_image_size(image_size)
    if backbone is not None:
        check_backbone(backbone)
        if pretrained:
            locate(backbone, published_weights(backbone, key="model.backbone"))
    elif pretrained:
        raise WeightsError(
            "model.pretrained=true: yolov5 has no weights of its own to download. Give a file with model.weights=FILE"
            " (lav convert-weights reads published checkpoints), or have timm's with model.backbone=resnet50."
        )


def check_image_size(image_size: int) -> None:
    below = image_size // COARSEST_STRIDE * COARSEST_STRIDE
    if image_size != below:
        near = " or ".join(str(size) for size in (below, below + COARSEST_STRIDE) if size)
        raise ConfigError(f"model.image_size={image_size} is no multiple of {COARSEST_STRIDE}. Choose {near}.")
