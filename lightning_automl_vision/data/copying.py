"""Writes augmented copies of labelled images, as pictures and as lines; what makes them is given."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.images import decode_image
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.prepared import Transform
from lightning_automl_vision.data.urls import local_path, read_bytes, without_query
from lightning_automl_vision.data.writing import ORIGINAL, details, group_of, kind_of, label_of, origin, relative
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.samples import Pixels, Place
from lightning_automl_vision.storage import umask, writing

_JPEG_QUALITY = 95


@dataclass
class Copies:
    """What makes augmented copies, how many of each image, and how many objects were cut away in them so far."""

    transform: Transform
    number: int
    seed: int
    maximum_pixels: int
    dropped: int = 0


def copied_lines(
    images: LabelledImages[Any], task: str, folder: Path, group_key: str | None, copies: Copies, pictures: Path
) -> Iterator[dict[str, Any]]:
    """One object for each copy; its picture, a JPEG where the image is one and else a PNG, is written on the way.

    ``pictures`` is a new folder, which is there when the last line was given.
    """
    with new_folder(pictures) as unfinished:
        for index, sample in enumerate(images.samples):
            content = read_bytes(sample.image)
            name = local_path(sample.image) or without_query(sample.image)
            pixels = decode_image(content, name=name, maximum_pixels=copies.maximum_pixels)
            kind = "jpg" if kind_of(content) == "jpg" else "png"
            for copy in range(copies.number):
                prepared = copies.transform(pixels, sample.target, (copies.seed, copy, index))
                copies.dropped += prepared.dropped
                picture = f"{index:06d}_{copy}.{kind}"
                _write_picture(unfinished / picture, prepared.pixels)
                height, width = prepared.pixels.shape[:2]
                yield {
                    "image_url": relative(str(pictures / picture), folder),
                    "image_details": details(kind, ImageHeader(width, height)),
                    "label": label_of(prepared.target.shares(Place(0, 0, width, height)), task, images.classes),
                    ORIGINAL: origin(sample, folder),
                    **group_of(sample, group_key),
                }


def check_new_folder(folder: Path) -> None:
    """Raise ConfigError for a folder that holds something, of an earlier run perhaps."""
    with writing(folder, "images_dir"):
        taken = folder.exists() and not (folder.is_dir() and not os.listdir(folder))
    if taken:
        raise ConfigError(f"images_dir={folder} is there already. Remove it, or name a new folder: images_dir=FOLDER.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place when it is complete, and else leaves nothing behind."""
    check_new_folder(folder)
    with writing(folder, "images_dir"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield unfinished
            unfinished.chmod(0o777 & ~umask())
            unfinished.replace(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _write_picture(path: Path, pixels: Pixels) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    path.write_bytes(encoded.tobytes())
