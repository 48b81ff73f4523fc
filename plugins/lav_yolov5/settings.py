"""The keys of yolov5."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import PretrainedModelConfig


@dataclass
class YoloV5Config(PretrainedModelConfig):
    model_size: str = key(
        "medium",
        "How deep and wide the network is; `xlarge` is another word for `extra_large`.",
        choices=("nano", "small", "medium", "large", "extra_large", "xlarge"),
    )
    image_size: int = key(
        640,
        "The pixels that the long side of a picture is resized to, a multiple of 32.",
        minimum=32,
        maximum=1 << 16,
        old=("img_size",),
    )
    multi_scale: bool = key(False, "Train each batch at a size of its own, from half of `image_size` to half more.")
    box_score_threshold: float = key(
        0.1,
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
        old=("nms_iou_thresh", "box_iou_thresh"),
    )
    box_detections_per_image: int = key(
        300, "How many objects are found in a picture at most.", minimum=1, old=("box_detections_per_img",)
    )
    backbone: str | None = key(
        None,
        "A timm architecture in place of the first ten layers, such as resnet50, or with the tag of its weights.",
    )
    pretrained: bool = key(
        False, "Start `backbone` from timm's published weights; the model's own layers have none to download."
    )
    auto_anchor: bool = key(True, "Fit the anchors to the objects of the training set where the usual ones do not.")
    anchor_threshold: float = key(
        4.0, "An anchor takes objects whose sides are less than so many times longer or shorter.", above=1
    )
    box_gain: float = key(0.05, "The weight of the loss of boxes.", minimum=0)
    objectness_gain: float = key(1.0, "The weight of the loss of objectness, at 640 pixels.", minimum=0)
    class_gain: float = key(0.5, "The weight of the loss of classes, for 80 of them.", minimum=0)
    objectness_positive_weight: float = key(1.0, "How much more places with an object count than others.", above=0)
    class_positive_weight: float = key(1.0, "How much more an object's own class counts than the others.", above=0)
    focal_gamma: float = key(0.0, "The exponent of a focal loss, which looks at what is hard; 0 is none.", minimum=0)
    label_smoothing: float = key(0.0, "How far the truth of classes is moved towards not knowing.", minimum=0, below=1)
    balance_levels: bool = key(False, "Let the weights of the three levels' objectness follow their losses.")
