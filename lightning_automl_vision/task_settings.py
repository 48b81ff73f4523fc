"""The nodes of tasks: what a model is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.keys import key

VALIDATION_LOSS = "validation_loss"


@dataclass
class TaskConfig:
    name: str = key("???", "The task.")
    primary_metric: str = key("???", "The metric that picks the best epoch and is returned to a sweep.")

    @property
    def judged_by(self) -> str:
        """The metric that does so in this configuration."""
        return self.primary_metric

    @property
    def lower_is_better(self) -> bool:
        return False


@dataclass
class ObjectTaskConfig(TaskConfig):
    """How objects that are found are judged."""

    validation_metric_type: str = key(
        "voc",
        "The metrics: `voc` at one overlap, `coco` over ten of them, both, or none, where the validation loss decides.",
        choices=("voc", "coco", "coco_voc", "none"),
    )
    validation_iou_threshold: float = key(
        0.5, "The overlap from which on an object counts as found, for `voc` and the curves.", minimum=0.1, maximum=1
    )
    metric_score_floor: float | None = key(
        None,
        "Judge every object with a score above this, where by default those above `model.box_score_threshold` are.",
        minimum=0,
        below=1,
    )
    log_training_metrics: bool = key(
        False, "Compute the metrics on the training set too at each evaluation; it takes that much longer."
    )
    log_validation_loss: bool = key(
        False, "Compute the losses on the validation set too at each evaluation; it takes about twice as long."
    )
    pictures: int = key(
        6, "How many validation images are drawn with truth and prediction after each evaluation.", minimum=0
    )

    @property
    def judged_by(self) -> str:
        return VALIDATION_LOSS if self.lower_is_better else self.primary_metric

    @property
    def lower_is_better(self) -> bool:
        return self.validation_metric_type == "none"
