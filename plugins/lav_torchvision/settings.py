"""The keys of each family of models."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import PretrainedModelConfig


@dataclass
class DetectorConfig(PretrainedModelConfig):
    min_size: int = key(600, "The pixels that the short side of a picture is resized to.", minimum=1, maximum=1 << 16)
    max_size: int = key(
        1333, "The pixels that the long side may have at most; the short side then has less.", minimum=1
    )
    box_score_threshold: float = key(
        0.3,
        "Objects are found with a score greater than this.",
        minimum=0,
        maximum=1,
        old=("box_score_thresh",),
    )
    nms_iou_threshold: float = key(
        0.5,
        "Of boxes of one class that overlap more than this only the best is kept.",
        minimum=0,
        maximum=1,
        old=("nms_iou_thresh", "box_nms_thresh"),
    )
    box_detections_per_image: int = key(
        100, "How many objects are found in a picture at most.", minimum=1, old=("box_detections_per_img",)
    )
    backbone: str | None = key(
        None, "A timm architecture in place of the ResNet, such as convnext_tiny, or with the tag of its weights."
    )
    freeze_norms: bool | None = key(
        None,
        "Keep the backbone's batch norms as they are, as small batches need; by default those of published weights.",
    )


@dataclass
class RegionDetectorConfig(DetectorConfig):
    box_samples_per_image: int = key(
        512, "How many proposals of a picture the heads learn from; fewer take less time and memory.", minimum=1
    )
    proposals_per_image: int = key(
        1000,
        "How many places the heads look at in a picture, twice as many in training; fewer take less time.",
        minimum=1,
    )


@dataclass
class MaskDetectorConfig(RegionDetectorConfig):
    mask_pixel_score_threshold: float = key(
        0.5, "A pixel with a score of at least this belongs to the object.", minimum=0, maximum=1
    )
    max_number_of_polygon_points: int = key(100, "How many points a polygon is written with at most.", minimum=3)
