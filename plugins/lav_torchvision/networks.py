"""torchvision's own detection networks, made to take pictures as they are and to answer in their pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lav_torchvision import architectures as known
from lav_torchvision.architectures import Architecture
from lav_torchvision.backbones import CHANNELS, TimmPyramid, resnet_pyramid
from lav_torchvision.crowds import heed_crowds
from lav_torchvision.settings import DetectorConfig, RegionDetectorConfig

ANCHORS_OF_PROPOSALS = 3
REPRESENTATION = 1024
POOLED = 7
GROUPS_OF_NORM = 32
STRIDE = 32
SIDES = 4  # of a box


class Normalizing(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Normalises pictures and pads them with zeros to sides that 32 divides; sizes and answers stay as they are."""

    given_normalized = False

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """What is given normalised is a single 1 x 3 x H x W picture, which other runtimes need not take apart."""
        if not self.given_normalized:
            prepared: tuple[ImageList, Any] = super().forward(images, targets)
            return prepared
        (picture,) = images
        height, width = picture.shape[-2:]
        return ImageList(pad(picture, (0, -width % STRIDE, 0, -height % STRIDE)), [(height, width)]), None

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        return result


def build_network(
    architecture: Architecture,
    options: DetectorConfig,
    *,
    classes: int,
    body: nn.Module | None,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> nn.Module:
    """Untrained; on ``body``, a timm network, in place of the ResNet where one is given."""
    pyramid = _pyramid(architecture, body)
    family = architecture.family
    network: nn.Module = _BUILDERS[family.name](pyramid, classes + family.background, architecture.second, options)
    network.transform = Normalizing(options.min_size, options.max_size, list(mean), list(std))
    for head in _heads(network):
        head.register_forward_hook(in_full_precision)
    heed_crowds(network)
    return network


def _pyramid(architecture: Architecture, body: nn.Module | None) -> nn.Module:
    family = architecture.family
    if family.background:
        extra, norm = None, nn.BatchNorm2d if architecture.second else None
    else:
        # The second version makes the coarser levels from the last feature itself.
        extra, norm = partial(_coarser_levels, from_feature=architecture.second), None
    if body is None:
        return resnet_pyramid(architecture.depth, family.strides, extra, norm)
    return TimmPyramid(body, family.strides, extra, norm)


def _coarser_levels(channels: int, *, from_feature: bool) -> LastLevelP6P7:
    return LastLevelP6P7(channels if from_feature else CHANNELS, CHANNELS)


def _faster_rcnn(pyramid: nn.Module, classes: int, second: bool, options: DetectorConfig) -> Any:
    return FasterRCNN(pyramid, classes, **_region_options(second, options))


def _mask_rcnn(pyramid: nn.Module, classes: int, second: bool, options: DetectorConfig) -> Any:
    head = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, 1, norm_layer=nn.BatchNorm2d if second else None)
    return MaskRCNN(pyramid, classes, mask_head=head, **_region_options(second, options))


def _region_options(second: bool, options: DetectorConfig) -> dict[str, Any]:
    assert isinstance(options, RegionDetectorConfig)
    parts = {}
    if second:
        parts["rpn_head"] = RPNHead(CHANNELS, ANCHORS_OF_PROPOSALS, conv_depth=2)
        parts["box_head"] = FastRCNNConvFCHead(
            (CHANNELS, POOLED, POOLED), [CHANNELS] * 4, [REPRESENTATION], norm_layer=nn.BatchNorm2d
        )
    return {
        "box_score_thresh": options.box_score_threshold,
        "box_nms_thresh": options.nms_iou_threshold,
        "box_detections_per_img": options.box_detections_per_image,
        "box_batch_size_per_image": options.box_samples_per_image,
        "rpn_pre_nms_top_n_train": 2 * options.proposals_per_image,
        "rpn_post_nms_top_n_train": 2 * options.proposals_per_image,
        "rpn_pre_nms_top_n_test": options.proposals_per_image,
        "rpn_post_nms_top_n_test": options.proposals_per_image,
        **parts,
    }


def _retinanet(pyramid: nn.Module, classes: int, second: bool, options: DetectorConfig) -> Any:
    network = RetinaNet(pyramid, classes, **_thresholds(options))
    if second:
        anchors = network.anchor_generator.num_anchors_per_location()[0]
        network.head = RetinaNetHead(CHANNELS, anchors, classes, norm_layer=partial(nn.GroupNorm, GROUPS_OF_NORM))
        network.head.regression_head._loss_type = "giou"
    return network


def _fcos(pyramid: nn.Module, classes: int, second: bool, options: DetectorConfig) -> Any:
    return FCOS(pyramid, classes, **_thresholds(options))


def _thresholds(options: DetectorConfig) -> dict[str, Any]:
    return {
        "score_thresh": options.box_score_threshold,
        "nms_thresh": options.nms_iou_threshold,
        "detections_per_img": sys.maxsize,  # boxes without extent are still among them
    }


class SteadyBoxCoder(BoxCoder):  # type: ignore[misc]
    """Of one picture; it does not ask if there are any boxes, for a trace would keep the answer."""

    def decode(self, rel_codes: Tensor, boxes: list[Tensor]) -> Tensor:
        (places,) = boxes
        found: Tensor = self.decode_single(rel_codes, places)
        return found.reshape(-1, rel_codes.shape[1] // SIDES, SIDES)


def for_other_runtimes(network: Any) -> None:
    """From now on the network takes single pictures, 1 x 3 x H x W and normalised, and can be traced."""
    network.transform.given_normalized = True
    for part in (getattr(network, name) for name in ("rpn", "roi_heads") if hasattr(network, name)):
        part.box_coder.__class__ = SteadyBoxCoder


_BUILDERS: Mapping[str, Callable[[nn.Module, int, bool, DetectorConfig], Any]] = {
    known.FASTER_RCNN.name: _faster_rcnn,
    known.MASK_RCNN.name: _mask_rcnn,
    known.RETINANET.name: _retinanet,
    known.FCOS.name: _fcos,
}


def scorer(network: nn.Module) -> Any:
    """The part whose ``score_thresh`` sorts out what is not sure enough."""
    return getattr(network, "roi_heads", network)


def branching(network: nn.Module) -> list[nn.Module]:
    """The parts that do something else in training, apart from norms and the like."""
    return [network, *(getattr(network, name) for name in ("rpn", "roi_heads") if hasattr(network, name))]


def _heads(network: Any) -> list[nn.Module]:
    if hasattr(network, "head"):
        return [network.head]
    masks = network.roi_heads.mask_predictor
    return [network.rpn.head, network.roi_heads.box_predictor, *([masks] if masks is not None else [])]


def in_full_precision(module: nn.Module, inputs: Any, answer: Any) -> Any:
    """A forward hook: boxes are coded in the precision of what a head answers, and 16 bits are too few for pixels."""
    if isinstance(answer, Tensor):
        return answer.float()
    if isinstance(answer, dict):
        return {name: value.float() for name, value in answer.items()}
    return type(answer)(in_full_precision(module, inputs, value) for value in answer)
