"""A folder for each class, with its images in it or below."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lightning_automl_vision.data.files import IMAGE_SUFFIXES, files_below, files_in, folders_in
from lightning_automl_vision.data.rows import Row, Source
from lightning_automl_vision.errors import DataError

TASKS = frozenset(("image_classification",))


def recognises(path: str) -> bool:
    return any(_has_images(os.path.join(path, name)) for name in folders_in(path))


def read(source: Source) -> Iterator[Row]:
    root = source.path
    classes = folders_in(root)
    if not classes:
        raise DataError(f"{root}: no folder in it. Make one for each class and put its images there.")
    base = os.path.abspath(root)
    for name in files_in(root, IMAGE_SUFFIXES):
        text = "an image outside the folders of the classes"
        source.faults.drop("image without class", os.path.join(root, name), text, "Move it")
    for name in classes:
        empty = True
        for file in files_below(os.path.join(root, name), IMAGE_SUFFIXES):
            empty = False
            yield Row(os.path.join(name, file), name, os.path.join(root, name, file), 0, base)
        if empty:
            source.faults.drop(
                "empty class folder", os.path.join(root, name), "no image in it", "Add some or remove it"
            )


def _has_images(folder: str) -> bool:
    return next(files_below(folder, IMAGE_SUFFIXES), None) is not None
