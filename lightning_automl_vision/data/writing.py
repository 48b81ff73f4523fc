"""Writes labelled images as JSON Lines in the documented form."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.urls import local_path
from lightning_automl_vision.samples import SIDES, Boxes, Labels, Masks, Sample
from lightning_automl_vision.storage import replacing, writing

ORIGINAL = "original"
"""The key that says which image a line, and every augmented copy of it, comes from: `data.group_by` takes it."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
    (b"GIF8", "gif"),
)


def jsonl_lines(
    images: LabelledImages[Any], task: str, folder: Path, group_key: str | None = None, *, with_originals: bool = False
) -> Iterator[dict[str, Any]]:
    """One object for each image; images below ``folder`` are named relative to it, others absolutely."""
    for sample, header in zip(images.samples, images.headers, strict=True):
        yield {
            "image_url": image_url(sample, folder),
            "image_details": details(_format(sample.image), header),
            "label": label_of(sample.target, task, images.classes),
            **({ORIGINAL: origin(sample, folder)} if with_originals else {}),
            **group_of(sample, group_key),
        }


def label_of(target: Labels, task: str, classes: Sequence[str]) -> Any:
    names = [classes[index] for index in target.labels]
    if isinstance(target, Boxes):
        crowd = target.crowd.astype(int).tolist()
        shapes = _polygons(target) if isinstance(target, Masks) else _boxes(target)
        return [
            {"label": name, **shape, "isCrowd": flag} for name, shape, flag in zip(names, shapes, crowd, strict=True)
        ]
    return names if task == "image_classification_multilabel" else names[0]


def write_atomically(lines: Iterable[dict[str, Any]], output: Path) -> int:
    """Write to a file beside ``output`` that takes its place when it is complete; gives the number of lines."""
    count = 0
    with writing(output, "output"):
        output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output, "output") as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def image_url(sample: Sample[Any], folder: Path) -> str:
    path = local_path(sample.image)
    return sample.image if path is None else relative(os.path.abspath(path), folder)


def relative(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder) if os.path.commonpath([path, folder]) == str(folder) else path


def origin(sample: Sample[Any], folder: Path) -> str:
    """What keeps an image and its copies together: its group, where it has one, so that groups stay together too."""
    return image_url(sample, folder) if sample.group is None else sample.group


def group_of(sample: Sample[Any], group_key: str | None) -> dict[str, str | None]:
    return {} if group_key is None else {group_key: sample.group}


def details(kind: str | None, header: ImageHeader) -> dict[str, Any]:
    """The size as displayed and the format by content; a format is left out where it would have to be fetched."""
    size = {"width": f"{header.width}px", "height": f"{header.height}px"}
    return size if kind is None else {"format": kind, **size}


def _format(image: str) -> str | None:
    path = local_path(image)
    if path is None:
        return None
    with open(path, "rb") as file:
        return kind_of(file.read(12))


def kind_of(content: bytes) -> str | None:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((name for beginning, name in _BEGINNINGS if content.startswith(beginning)), None)


def _boxes(target: Boxes) -> list[dict[str, Any]]:
    return [dict(zip(SIDES, box, strict=True)) for box in target.boxes.tolist()]


def _polygons(target: Masks) -> list[dict[str, Any]]:
    return [{"polygon": [part.ravel().tolist() for part in parts]} for parts in target.polygons]
