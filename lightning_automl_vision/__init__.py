"""AutoML for images: what a plugin author or a notebook needs, imported when it is first asked for."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Nothing phones home: each of these switches off an update check or telemetry of a dependency before it is imported.
for _switch in (
    "NO_ALBUMENTATIONS_UPDATE",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_UPDATE_CHECK",
    "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
):
    os.environ.setdefault(_switch, "1")

if TYPE_CHECKING:
    from lightning_automl_vision.api import train
    from lightning_automl_vision.errors import VisionError
    from lightning_automl_vision.hookspecs import hookimpl
    from lightning_automl_vision.keys import key
    from lightning_automl_vision.models import (
        Batch,
        BoxTargets,
        Classifier,
        Detector,
        MaskTargets,
        Targets,
        VisionModel,
    )
    from lightning_automl_vision.predictor import Predictor, load
    from lightning_automl_vision.result import Result
    from lightning_automl_vision.samples import Boxes, Labels, Masks, Sample, ScoredBoxes, ScoredLabels, ScoredMasks
    from lightning_automl_vision.settings import ModelConfig, PretrainedModelConfig
    from lightning_automl_vision.specs import ModelSpec

_HOMES = {
    "api": ("train",),
    "errors": ("VisionError",),
    "hookspecs": ("hookimpl",),
    "keys": ("key",),
    "models": ("Batch", "BoxTargets", "Classifier", "Detector", "MaskTargets", "Targets", "VisionModel"),
    "predictor": ("Predictor", "load"),
    "result": ("Result",),
    "samples": ("Boxes", "Labels", "Masks", "Sample", "ScoredBoxes", "ScoredLabels", "ScoredMasks"),
    "settings": ("ModelConfig", "PretrainedModelConfig"),
    "specs": ("ModelSpec",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "BoxTargets",
    "Boxes",
    "Classifier",
    "Detector",
    "Labels",
    "MaskTargets",
    "Masks",
    "ModelConfig",
    "ModelSpec",
    "Predictor",
    "PretrainedModelConfig",
    "Result",
    "Sample",
    "ScoredBoxes",
    "ScoredLabels",
    "ScoredMasks",
    "Targets",
    "VisionError",
    "VisionModel",
    "hookimpl",
    "key",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
