"""Model folders whose untrained networks have answers that differ, for exporting them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lightning_automl_vision.api import settings
from lightning_automl_vision.jobs import export as verb
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.outlines import prediction_dict
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import load

MULTICLASS, MULTILABEL = "image_classification", "image_classification_multilabel"
DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"
SMALL = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.3}
YOLO = {"model_size": "nano", "image_size": 64, "box_score_threshold": 0.3}
TINY = {"architecture": "test_byobnet"}


def write_model(folder: Path, name: str, task: str, *, size: int = 32, tiling: Any = None, **given: Any) -> Path:
    """Untrained, and by far not indifferent; small numbers of proposals where there are any."""
    torch.manual_seed(0)
    spec = model_spec(name)
    usual = {key: value for key, value in asdict(spec.config(name=name)).items() if key not in ("name", "weights")}
    small = {"pretrained": False, "proposals_per_image": 40}
    parameters = {**usual, **{key: value for key, value in small.items() if key in usual}, **given}
    model = spec.build_with(parameters, task=task, num_classes=3, image_size=size)
    enliven(model)
    resizing = model.resizing
    prepared = (
        {"resize": "crop", "valid_resize_size": size, "valid_crop_size": size}
        if resizing is None
        else resizing.as_settings()
    )
    card = ModelCard(
        task=task,
        name=name,
        parameters=parameters,
        labels=["blue", "green", "red"],
        settings={**prepared, **inference_settings(parameters), **(tiling or {})},
        image_size=size if resizing is None else None,
    )
    save_model(folder, card, model)
    return folder


def enliven(model: torch.nn.Module) -> None:
    """Norms that have seen something, and last layers that are sure of something."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        blocks = torch.rand(4, 3, 24, 24).repeat_interleave(8, 2).repeat_interleave(8, 3)
        network = model.network.train()
        body = getattr(network, "backbone", None) or network
        if norms:
            body(blocks)
        if hasattr(body, "fpn"):
            spread = max(float(feature.std()) for feature in body.eval()(blocks).values())
            for parameter in body.fpn.layer_blocks.parameters():
                parameter /= spread
        for name, layer in model.named_modules():
            if name.endswith(("head.fc", "box_predictor.cls_score")):
                layer.weight *= 3  # more would be sure of everything, and equal scores have no order
            if name.endswith("cls_logits"):
                layer.bias.zero_()
            if ".24.m." in name:  # yolov5's head
                layer.weight.normal_(0, 0.15)
                layer.bias.zero_()
    model.eval()


def write_noise(folder: Path, sizes: tuple[tuple[int, int], ...] = ((64, 96), (100, 65), (40, 120))) -> Path:
    """Pictures of these heights and widths without any labels."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        blocks = random.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]])
    return folder


def write_labels(model: Path, folder: Path) -> Path:
    """Noise, and what the model says of it with a third of the labels right: labels.jsonl."""
    predictor, lines = load(model), []
    for number, picture in enumerate(sorted(write_noise(folder, ((64, 96), (100, 65), (40, 120)) * 2).iterdir())):
        answer = prediction_dict(predictor.predict([picture])[0])
        found = [*map(_object, answer["boxes"])] if "boxes" in answer else _likely(answer, predictor.card.task)
        for place, one in enumerate(found):
            names = predictor.labels
            one["label"] = names[(names.index(one["label"]) + number + place) % len(names)]
        labels: Any = [*{one["label"] for one in found}] if "probs" in answer else found
        line = {"image_url": picture.name, "label": labels[0] if predictor.card.task == MULTICLASS else labels}
        lines.append(json.dumps(line))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "labels.jsonl"


def _object(found: dict[str, Any]) -> dict[str, Any]:
    if "polygon" in found:
        return {"label": found["label"], "polygon": found["polygon"]}
    return {"label": found["label"], **found["box"]}


def _likely(answer: dict[str, Any], task: str) -> list[dict[str, Any]]:
    pairs = sorted(zip(answer["probs"], answer["labels"], strict=True), reverse=True)
    likely = [name for score, name in pairs if score >= 0.5] if task == MULTILABEL else []
    return [{"label": name} for name in likely or [pairs[0][1]]]


def edited(folder: Path, source: Path, **settings: Any) -> Path:
    """The same model with other settings."""
    shutil.copytree(source, folder)
    known = json.loads((source / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**known, **settings}))
    return folder


def export(
    model: Path, output: Path, images: Path | None, *, quiet: bool = True, task: str | None = None, **keys: Any
) -> Any:
    """By the verb; what parity.json holds."""
    job = {"name": "export", "output": str(output), **({"images": str(images)} if images else {}), **keys}
    asked = settings(checkpoint=str(model), job=job, quiet=quiet, **({"task": task} if task else {}))
    return verb.export(asked, asked.job)
