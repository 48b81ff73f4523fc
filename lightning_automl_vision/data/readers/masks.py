"""One mask picture an object: a folder for each image, with its masks and perhaps the image itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from lightning_automl_vision.data.files import IMAGE_SUFFIXES, files_below, files_in, folders_in
from lightning_automl_vision.data.rows import Row, Source
from lightning_automl_vision.data.tracing import mask_to_polygons
from lightning_automl_vision.samples import BoolArray

TASKS = frozenset(("image_object_detection", "image_instance_segmentation"))


def recognises(path: str) -> bool:
    folders = [os.path.join(path, name) for name in folders_in(path)]
    return bool(folders) and all(os.path.isdir(os.path.join(name, "masks")) or _only_masks(name) for name in folders)


def read(source: Source) -> Iterator[Row]:
    """ID/images/* with ID/masks/*, or ID/* with the image ID.* in ``data.images``."""
    pictures = _pictures(source.config.images)
    for name in folders_in(source.path):
        folder = os.path.join(source.path, name)
        image = _image(folder, name, pictures)
        if image is None:
            where = source.config.images or os.path.join(folder, "images")
            text = f"no single picture of it in {where}"
            source.faults.drop("annotation without image", folder, text, "Add it, or set data.images")
            continue
        row = _row(folder, image, source)
        if row is not None:
            yield row


def _only_masks(folder: str) -> bool:
    names = files_in(folder, IMAGE_SUFFIXES)
    return bool(names) and all(name.lower().startswith("mask") for name in names)


def _pictures(folder: str | None) -> dict[str, str]:
    if folder is None:
        return {}
    names = files_below(folder, IMAGE_SUFFIXES)
    return {os.path.splitext(name)[0]: os.path.abspath(os.path.join(folder, name)) for name in names}


def _image(folder: str, name: str, pictures: dict[str, str]) -> str | None:
    own = files_in(os.path.join(folder, "images"), IMAGE_SUFFIXES)
    if len(own) == 1:
        return os.path.abspath(os.path.join(folder, "images", own[0]))
    return pictures.get(name)


def _row(folder: str, image: str, source: Source) -> Row | None:
    label: list[dict[str, Any]] = []
    places: list[str] = []
    size = None
    masks = _masks(folder, source.config.class_name)
    for file, name in masks:
        try:
            mask = _read(file)
        except ValueError as error:
            source.faults.drop("unreadable mask", file, str(error))
            continue
        shape = (mask.shape[1], mask.shape[0])
        if size is not None and shape != size:
            text = f"the mask has {shape[0]}x{shape[1]} pixels, the others of its image {size[0]}x{size[1]}"
            source.faults.drop("mask of another size", file, text)
            continue
        size = shape
        label.append({"label": name, **_shape(mask, source.task)})
        places.append(file)
    if masks and not label:
        source.faults.drop("no object left", folder, "every mask of the image is faulty")
        return None
    return Row(image, label, folder, 0, os.path.dirname(image), None, places, True, size, size is not None)


def _masks(folder: str, class_name: str | None) -> list[tuple[str, str]]:
    """Each mask's file and class: the folder below ``masks`` that it lies in, or ``data.class_name``."""
    inside = os.path.join(folder, "masks")
    root = inside if os.path.isdir(inside) else folder
    default = class_name or "object"
    return [
        (os.path.join(root, file), os.path.dirname(file) or default)
        for file in files_below(root, IMAGE_SUFFIXES)
        if root == inside or not file.startswith(f"images{os.sep}")
    ]


def _read(file: str) -> BoolArray:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            values = np.asarray(picture.convert("L") if picture.mode not in ("L", "1", "P", "I", "I;16") else picture)
    except OSError as error:
        raise ValueError(f"the mask cannot be read: {error}") from None
    mask: BoolArray = values > 0
    if not mask.any():
        raise ValueError("the mask is empty, it shows no object")
    return mask


def _shape(mask: BoolArray, task: str) -> dict[str, Any]:
    if task == "image_instance_segmentation":
        return {"polygon": [part.ravel().tolist() for part in mask_to_polygons(mask)]}
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return {
        "topX": int(columns[0]),
        "topY": int(rows[0]),
        "bottomX": int(columns[-1]) + 1,
        "bottomY": int(rows[-1]) + 1,
    }
