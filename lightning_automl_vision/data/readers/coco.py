"""COCO json: images, categories and annotations in one document; polygons and run-length masks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from lightning_automl_vision.data import rle
from lightning_automl_vision.data.files import beginning, files_in, folder_of, read_text
from lightning_automl_vision.data.rows import Row, Source, shown
from lightning_automl_vision.data.tracing import mask_to_polygons
from lightning_automl_vision.errors import DataError

TASKS = frozenset(("image_object_detection", "image_instance_segmentation"))

_SECTION = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_JSON = frozenset((".json",))

# Boxes that are all smaller than this are shares of the picture, as Azure's labelling tool exports them.
_NORMALISED = 1.5


def recognises(path: str) -> bool:
    if os.path.isdir(path):
        return len(_documents(path)) == 1
    return path.lower().endswith(".json") and _SECTION.search(beginning(path)) is not None


def read(source: Source) -> Iterator[Row]:
    path = source.path
    if os.path.isdir(path):
        documents = _documents(path)
        if len(documents) != 1:
            raise DataError(f"{path}: {len(documents)} COCO files in this folder. Name the one to read.")
        path = os.path.join(path, documents[0])
    images, annotations, names = _sections(path, source)
    pixels = _in_pixels(annotations)
    by_image: dict[object, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        if annotation.get("image_id") in by_image:
            by_image[annotation["image_id"]].append(annotation)
        else:
            text = f"image_id={shown(annotation.get('image_id'))} is none of the images"
            source.faults.drop("annotation without image", _place(path, annotation), text)
    masks = source.task == "image_instance_segmentation"
    base = folder_of(path, source.config)
    for image in images:
        label, places, raster = [], [], None
        for annotation in by_image[image["id"]]:
            try:
                value, size = _object(annotation, names, masks, pixels)
            except ValueError as error:
                source.faults.drop("unreadable annotation", _place(path, annotation), str(error))
                continue
            label.append(value)
            places.append(_place(path, annotation))
            raster = raster or size
        if by_image[image["id"]] and not label:
            source.faults.drop("no object left", path, f"every object of {shown(image.get('file_name'))} is faulty")
            continue
        group = None if source.key is None else image.get(source.key)
        name, claimed = image.get("file_name", ""), _claimed(image)
        place = f"{path}: image {image['id']}"
        yield Row(name, label, place, 0, base, group, places, pixels, raster or claimed, raster is not None)


def _documents(folder: str) -> list[str]:
    names = files_in(folder, _JSON)
    return [name for name in names if _SECTION.search(beginning(os.path.join(folder, name)))]


def _sections(path: str, source: Source) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[object, str]]:
    try:
        document = json.loads(read_text(path, source.config.encoding))
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise DataError(f"{path}{where}: not JSON ({reason}). Export the file again.") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: a JSON {type(document).__name__}, not a COCO object. Check data.format.")
    sections = [document.get(name) for name in ("images", "annotations", "categories")]
    for name, section in zip(("images", "annotations", "categories"), sections, strict=True):
        if not isinstance(section, list) or not all(isinstance(item, dict) for item in section):
            raise DataError(f"{path}: no list of objects {name!r}, which COCO has. Check data.format.")
    images, annotations, categories = sections
    for name, section in (("images", images), ("categories", categories)):
        for number, item in enumerate(section or ()):
            if not isinstance(item.get("id"), (int, str)):
                raise DataError(f"{path}: number {number + 1} of {name!r} has no id, only {shown([*item])}. Add it.")
        identifiers = [item["id"] for item in section or ()]
        twice = (
            next((value for value in identifiers if identifiers.count(value) > 1), None)
            if (len(set(identifiers)) < len(identifiers))
            else None
        )
        if twice is not None:
            raise DataError(f"{path}: the id {twice!r} occurs twice in {name!r}. Give each its own.")
    return images or [], annotations or [], {item["id"]: item.get("name") for item in categories or ()}


def _in_pixels(annotations: list[dict[str, Any]]) -> bool:
    numbers = [
        value
        for annotation in annotations
        if isinstance(annotation.get("bbox"), list)
        for value in annotation["bbox"]
        if isinstance(value, (int, float))
    ]
    if not numbers:
        numbers = [
            value
            for annotation in annotations
            if isinstance(annotation.get("segmentation"), list)
            for part in annotation["segmentation"]
            if isinstance(part, list)
            for value in part
            if isinstance(value, (int, float))
        ]
    return max(numbers, default=_NORMALISED) >= _NORMALISED


def _object(
    annotation: dict[str, Any], names: dict[object, str], masks: bool, pixels: bool
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """The object as a JSONL line has it, and the size of the mask it was traced from."""
    category = annotation.get("category_id")
    if not isinstance(category, (int, str)) or category not in names:
        raise ValueError(f"category_id={shown(category)} is none of the categories {shown([*names])}")
    value: dict[str, Any] = {"label": names[category], "isCrowd": annotation.get("iscrowd", 0)}
    if not masks:
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(type(item) in (int, float) for item in box):
            raise ValueError(f"bbox={shown(box)} is not [x, y, width, height]")
        x, y, width, height = box
        return {**value, "topX": x, "topY": y, "bottomX": x + width, "bottomY": y + height}, None
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        mask = rle_mask(segmentation)
        size = (mask.shape[1], mask.shape[0])
        # In a file of shares, what is traced becomes shares of the mask.
        scale = (1, 1) if pixels else size
        parts = [(part / scale).ravel().tolist() for part in mask_to_polygons(mask)]
        return {**value, "polygon": parts}, size
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"segmentation={shown(segmentation)} is neither polygons nor a run-length mask")
    return {**value, "polygon": segmentation}, None


def rle_mask(segmentation: dict[str, Any]) -> Any:
    try:
        mask = rle.decode(segmentation)
    except ValueError as error:
        raise ValueError(f"the run-length mask cannot be read: {error}") from None
    if not mask.any():
        raise ValueError("the run-length mask is empty")
    return mask


def _claimed(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _place(path: str, annotation: dict[str, Any]) -> str:
    return f"{path}: annotation {annotation.get('id', 'without id')}"
