"""Runs with models that were never trained, for what asks a model and does not mind what it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from label_files import DETECTION, MULTICLASS, MULTILABEL, SEGMENTATION

from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.plugins import model_spec

_SIDE = 64
_SMALL = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.0, "box_detections_per_image": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    MULTICLASS: ("timm", {"architecture": "test_vit3"}),
    MULTILABEL: ("timm", {"architecture": "test_vit3"}),
    DETECTION: ("fasterrcnn_resnet18_fpn", _SMALL),
    SEGMENTATION: ("maskrcnn_resnet18_fpn", {**_SMALL, "max_number_of_polygon_points": 12}),
}


def save_untrained(folder: Path, task: str, **settings: Any) -> Path:
    """A run's folder with the model of a task; ``settings`` are further ones of its settings.json."""
    name, parameters = MODELS[task]
    torch.manual_seed(0)
    spec = model_spec(name)
    chosen = {**asdict(spec.config(name=name)), "pretrained": False, **parameters}
    chosen = {key: value for key, value in chosen.items() if key not in ("name", "weights")}
    model = spec.build(task=task, num_classes=2, image_size=_SIDE, **chosen)
    resizing = model.resizing or CenterCrop(resize=_SIDE, size=_SIDE)
    card = ModelCard(
        task=task,
        name=name,
        parameters=chosen,
        image_size=_SIDE if task in (MULTICLASS, MULTILABEL) else None,
        labels=["dark", "bright"],
        settings={**resizing.as_settings(), **inference_settings(chosen), **settings},
    )
    save_model(folder / "model", card, model)
    return folder
