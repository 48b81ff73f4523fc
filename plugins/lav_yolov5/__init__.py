"""Detection with YOLOv5, written from facts about it: nano to extra large, on its own body or on one of timm."""

from __future__ import annotations

from lav_yolov5.settings import YoloV5Config
from lav_yolov5.sizes import GROUPS
from lightning_automl_vision.hookspecs import hookimpl
from lightning_automl_vision.specs import ModelSpec

TASK = "image_object_detection"

DEFAULTS = {
    "number_of_epochs": 30,
    "training_batch_size": 16,
    "validation_batch_size": 16,
    "learning_rate": 0.01,
    "nominal_batch_size": 64,
    "decay_norms_and_biases": False,
    "ema_decay": 0.9999,
    "gradient_clip": 10.0,
    "augment.crop.p": 0.0,
    "augment.expand.p": 0.0,
    "augment.mosaic.p": 1.0,
    "augment.affine.p": 1.0,
    "augment.hsv.p": 1.0,
}


@hookimpl
def lav_models() -> list[ModelSpec]:
    return [
        ModelSpec(
            name="yolov5",
            tasks=frozenset({TASK}),
            builder="lav_yolov5.model:build",
            find_weights="lav_yolov5.weights:find_weights",
            config=YoloV5Config,
            freezable=GROUPS,
            refuses={"compile=true": "compiling its network was not done after four minutes of a processor"},
            export_choices=frozenset({"nms"}),
            answers="lav_yolov5.answers:YoloAnswers.of",
            defaults={TASK: DEFAULTS},
            licence="Apache-2.0",
            weights="none; timm's for a backbone",
            parameters=21_190_557,
        )
    ]
