"""What is known of a task or a model before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.settings import ModelConfig, TrainerConfig
from lightning_automl_vision.task_settings import ObjectTaskConfig, TaskConfig

if TYPE_CHECKING:
    from lightning_automl_vision.models import VisionModel

Defaults = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model by name: the tasks it serves, where its builder lives, and what a run should know of it.

    ``builder`` and ``find_weights`` are paths, ``"package.module:function"``. The builder is called with ``task``,
    ``num_classes``, ``image_size`` and the fields of ``config``; ``find_weights``, if given, with the fields of
    ``config`` before any data is read, and raises WeightsError when the pretrained weights cannot be had.
    ``defaults`` holds, for each task, the keys whose default this model changes: those of ``training`` by their bare
    names, such as ``learning_rate``, those of ``augment`` by their full ones, such as ``augment.mosaic.p``.
    ``freezable`` are the groups of parameter-name prefixes that ``training.layers_to_freeze`` counts, first to last;
    None leaves them to the built model, as does a ``backbone`` of the user's own, where ``config`` has such a key.
    ``refuses`` are the choices of ``trainer`` that it cannot be trained with, ``"precision=16-mixed"`` or
    ``"compile=true"``, each with the reason.
    ``answers`` is the path of what makes predictions of an exported network's outputs, in numpy alone: called with
    ``name``, ``task``, the ``parameters`` as they are now and the ``facts`` that model.json holds of the export;
    without it, that of the task. ``refuses_export`` are the formats it cannot be exported to, each with the reason, or
    ``"*"`` for all of them; ``export_choices`` are options of ``lav export`` that it reads and others do not.
    """

    name: str
    tasks: frozenset[str]
    builder: str
    config: type[ModelConfig] = ModelConfig
    defaults: Mapping[str, Defaults] = field(default_factory=dict)
    freezable: tuple[tuple[str, ...], ...] | None = None
    fixed_image_size: int | None = None
    refuses: Mapping[str, str] = field(default_factory=dict)
    refuses_export: Mapping[str, str] = field(default_factory=dict)
    export_choices: frozenset[str] = frozenset()
    answers: str | None = None
    find_weights: str | None = None
    aliases: tuple[str, ...] = ()
    licence: str = "unknown"
    weights: str = "none"
    parameters: int | None = None

    def build(self, *, task: str, num_classes: int, image_size: int, **parameters: Any) -> VisionModel[Any, Any]:
        model: VisionModel[Any, Any] = resolve_name(self.builder)(
            task=task, num_classes=num_classes, image_size=image_size, **parameters
        )
        if (groups := self.groups(**parameters)) is not None:
            model.freezable = groups
        return model

    def build_with(
        self, parameters: Mapping[str, Any], *, task: str, num_classes: int, image_size: int
    ) -> VisionModel[Any, Any]:
        """Built with a run's parameters, among which a model may have an image size of its own."""
        return self.build(task=task, num_classes=num_classes, **{"image_size": image_size, **parameters})

    def groups(self, **parameters: Any) -> tuple[tuple[str, ...], ...] | None:
        """What can be frozen of the model with these fields of ``config``, as far as that is known without it."""
        return None if parameters.get("backbone") is not None else self.freezable

    def check_trainer(self, trainer: TrainerConfig) -> None:
        for choice, reason in self.refuses.items():
            name, _, value = choice.partition("=")
            if str(getattr(trainer, name)).lower() == value:
                raise ConfigError(
                    f"trainer.{choice}: {self.name} cannot be trained so: {reason}."
                    " Leave it out, or choose another model."
                )

    def answers_for(self, task: str) -> str | None:
        """The path of what makes predictions of an exported network's outputs, if there is any."""
        return self.answers or TASKS[task].answers

    def export_refusal(self, format: str, task: str) -> str | None:
        """Why the model cannot be exported to this format, or None."""
        reason = self.refuses_export.get(format) or self.refuses_export.get("*")
        if reason is None and self.answers_for(task) is None:
            return "its plugin does not say how to read an exported network: its ModelSpec has no `answers`"
        return reason

    def check_weights(self, **parameters: Any) -> None:
        if self.find_weights is not None:
            resolve_name(self.find_weights)(**parameters)


def without_published(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters for a model that starts from other weights, or from none."""
    return {**parameters, "pretrained": False} if "pretrained" in parameters else dict(parameters)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task by name; ``builder`` is the path of its VisionTask, ``config`` the node of its keys.

    ``unused`` are the ``training.*`` keys that mean nothing to it, with the only value that is not refused.
    ``answers`` is the path of what makes predictions of an exported network's outputs where the model names none.
    """

    name: str
    primary_metric: str
    default_models: tuple[str, ...]
    defaults: Defaults
    builder: str
    config: type[TaskConfig] = TaskConfig
    unused: Defaults = field(default_factory=dict)
    answers: str | None = None


_CLASSIFICATION = {"number_of_epochs": 15, "training_batch_size": 78}
_DETECTION = {"number_of_epochs": 15, "training_batch_size": 2, "validation_batch_size": 1, "learning_rate": 0.005}
_CLASS_ANSWERS = "lightning_automl_vision.export.answers:ClassAnswers.of"
_OF_CLASSIFICATION = {
    "training_crop_size": 224,
    "validation_crop_size": 224,
    "validation_resize_size": 256,
    "weighted_loss": 0,
    "label_smoothing": 0.0,
}

TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="image_classification",
            primary_metric="accuracy",
            default_models=("vitb16r224",),
            defaults={**_CLASSIFICATION, "learning_rate": 0.01},
            builder="lightning_automl_vision.tasks.classification:MulticlassTask",
            answers=_CLASS_ANSWERS,
        ),
        TaskSpec(
            name="image_classification_multilabel",
            primary_metric="iou",
            default_models=("vitb16r224",),
            defaults={**_CLASSIFICATION, "learning_rate": 0.035},
            builder="lightning_automl_vision.tasks.classification:MultilabelTask",
            answers=_CLASS_ANSWERS,
        ),
        TaskSpec(
            name="image_object_detection",
            primary_metric="mean_average_precision",
            default_models=("yolov5", "fasterrcnn_resnet50_fpn"),
            defaults=_DETECTION,
            builder="lightning_automl_vision.tasks.objects:DetectionTask",
            config=ObjectTaskConfig,
            unused=_OF_CLASSIFICATION,
        ),
        TaskSpec(
            name="image_instance_segmentation",
            primary_metric="mean_average_precision",
            default_models=("maskrcnn_resnet50_fpn",),
            defaults=_DETECTION,
            builder="lightning_automl_vision.tasks.objects:SegmentationTask",
            config=ObjectTaskConfig,
            unused=_OF_CLASSIFICATION,
        ),
    )
}
