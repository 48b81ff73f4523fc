"""Image classification with timm: the twelve documented models by name, and any other timm classifier."""

from __future__ import annotations

from dataclasses import dataclass

from lav_timm.architectures import ARCHITECTURES
from lightning_automl_vision.hookspecs import hookimpl
from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import PretrainedModelConfig
from lightning_automl_vision.specs import ModelSpec

TASKS = frozenset({"image_classification", "image_classification_multilabel"})


@dataclass
class TimmModelConfig(PretrainedModelConfig):
    drop_rate: float | None = key(
        None,
        "The share of features dropped before the classifier; by default the architecture's own.",
        minimum=0,
        below=1,
    )
    drop_path_rate: float | None = key(
        None,
        "How often a residual branch is skipped in training; by default the architecture's own.",
        minimum=0,
        below=1,
    )


@dataclass
class AnyTimmModelConfig(TimmModelConfig):
    architecture: str = key("???", "A timm classifier, such as convnext_tiny, or with the tag of its weights.")


@hookimpl
def lav_models() -> list[ModelSpec]:
    return [
        *(
            ModelSpec(
                name=name,
                tasks=TASKS,
                builder=f"lav_timm.model:builders.{name}",
                find_weights=f"lav_timm.weights:finders.{name}",
                config=TimmModelConfig,
                defaults=architecture.defaults,
                freezable=architecture.groups,
                fixed_image_size=architecture.image_size,
                aliases=architecture.aliases,
                licence="Apache-2.0",
                weights=f"{architecture.trained_on} ({architecture.tag}), Apache-2.0",
                parameters=architecture.parameters,
            )
            for name, architecture in ARCHITECTURES.items()
        ),
        ModelSpec(
            name="timm",
            tasks=TASKS,
            builder="lav_timm.model:build",
            find_weights="lav_timm.weights:find_weights",
            config=AnyTimmModelConfig,
            licence="Apache-2.0",
            weights="by architecture; see its licence on the hub",
        ),
    ]
