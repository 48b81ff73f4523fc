"""Tiny label files of every form, and the configuration that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lightning_automl_vision.data.labelled import LabelledImages, read_labelled
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import DataConfig

MULTICLASS = "image_classification"
MULTILABEL = "image_classification_multilabel"
DETECTION = "image_object_detection"
SEGMENTATION = "image_instance_segmentation"


def config(folder: Path, **keys: Any) -> DataConfig:
    return DataConfig(**{"minimum_images": 1, "cache": str(folder / "cache"), **keys})


def picture(path: Path, width: int = 20, height: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 127, np.uint8))
    return path


def pictures(folder: Path, count: int, **size: int) -> list[str]:
    """The names of new pictures in the folder: 0.png, 1.png, …"""
    return [picture(folder / f"{number}.png", **size).name for number in range(count)]


def box(label: str = "cat", left: Any = 0.1, top: Any = 0.2, right: Any = 0.5, bottom: Any = 0.6, **more: Any) -> Any:
    return {"label": label, "topX": left, "topY": top, "bottomX": right, "bottomY": bottom, **more}


def polygon(*parts: Any, label: str = "cat", **more: Any) -> Any:
    return {"label": label, "polygon": list(parts) or [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], **more}


def write_lines(path: Path, lines: list[Any]) -> Path:
    """Objects become JSON, texts are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def write_labels(folder: Path, labels: list[Any]) -> Path:
    """A JSONL file with a picture for each label."""
    names = pictures(folder, len(labels))
    lines = [{"image_url": name, "label": label} for name, label in zip(names, labels, strict=True)]
    return write_lines(folder / "train.jsonl", lines)


def read(path: Path, task: str, **keys: Any) -> LabelledImages[Any]:
    folder = path if path.is_dir() else path.parent
    return read_labelled(str(path), task, config(folder.parent, **keys))


def names(images: LabelledImages[Any]) -> list[Any]:
    """The class names of each image."""
    return [[images.classes[label] for label in sample.target.labels] for sample in images.samples]


def hear(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, also after a run has taken the logger for itself."""
    monkeypatch.setattr(LOG, "propagate", True)
    return caplog
