"""The models by name: family, depth of the ResNet, and the weights they start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lav_torchvision.settings import DetectorConfig, MaskDetectorConfig, RegionDetectorConfig

BODY = "network.backbone.body."
# What `training.layers_to_freeze` counts of a ResNet.
RESNET_GROUPS = (
    (f"{BODY}conv1.", f"{BODY}bn1."),
    *((f"{BODY}layer{stage}.",) for stage in range(1, 5)),
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """``heads`` are the tensors that depend on the number of classes; ``background`` counts its own class."""

    name: str
    config: type[DetectorConfig]
    heads: tuple[str, ...]
    background: int
    strides: tuple[int, ...] = (4, 8, 16, 32)
    task: str = "image_object_detection"


_REGION_HEADS = ("roi_heads.box_predictor.",)
_DENSE_HEADS = ("head.classification_head.cls_logits.",)

FASTER_RCNN = Family(name="FasterRCNN", config=RegionDetectorConfig, heads=_REGION_HEADS, background=1)
MASK_RCNN = Family(
    name="MaskRCNN",
    config=MaskDetectorConfig,
    heads=(*_REGION_HEADS, "roi_heads.mask_predictor.mask_fcn_logits."),
    background=1,
    task="image_instance_segmentation",
)
RETINANET = Family(name="RetinaNet", config=DetectorConfig, heads=_DENSE_HEADS, background=0, strides=(8, 16, 32))
FCOS = Family(name="FCOS", config=DetectorConfig, heads=_DENSE_HEADS, background=0, strides=(8, 16, 32))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """``coco`` says whether there are weights for the whole network, else there are some for its ResNet.

    ``second`` are torchvision's improved versions. ``bare_norms`` tells of COCO weights whose norms were trained
    without the small number that is added to a variance. ``parameters`` are counted with 91 classes.
    """

    family: Family
    depth: int = 50
    second: bool = False
    coco: bool = False
    bare_norms: bool = False
    parameters: int

    @property
    def task(self) -> str:
        return self.family.task

    @property
    def config(self) -> type[DetectorConfig]:
        return self.family.config

    @property
    def weights(self) -> str:
        """torchvision's name for them."""
        if not self.coco:
            return f"ResNet{self.depth}_Weights.IMAGENET1K_V1"
        return f"{self.family.name}_ResNet50_FPN_{'V2_' if self.second else ''}Weights.COCO_V1"

    @property
    def trained_on(self) -> str:
        return "COCO" if self.coco else "ImageNet-1k (ResNet only)"


def _with_resnets(family: Family, parameters: Mapping[int, int]) -> dict[str, Architecture]:
    return {
        f"{family.name.lower()}_resnet{depth}_fpn": Architecture(
            family=family, depth=depth, coco=depth == 50, bare_norms=depth == 50, parameters=count
        )
        for depth, count in parameters.items()
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    **_with_resnets(FASTER_RCNN, {18: 28_739_606, 34: 38_847_766, 50: 41_808_406, 101: 60_800_534, 152: 76_444_182}),
    "fasterrcnn_resnet50_fpn_v2": Architecture(family=FASTER_RCNN, second=True, coco=True, parameters=43_712_278),
    **_with_resnets(RETINANET, {50: 34_068_119}),
    "retinanet_resnet50_fpn_v2": Architecture(family=RETINANET, second=True, coco=True, parameters=38_198_935),
    "fcos_resnet50_fpn": Architecture(family=FCOS, coco=True, parameters=32_322_720),
    **_with_resnets(MASK_RCNN, {18: 31_385_713, 34: 41_493_873, 50: 44_454_513, 101: 63_446_641, 152: 79_090_289}),
    "maskrcnn_resnet50_fpn_v2": Architecture(family=MASK_RCNN, second=True, coco=True, parameters=46_359_409),
}
