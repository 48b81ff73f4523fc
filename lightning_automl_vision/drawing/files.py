"""Pictures that answer beside the answers: with what was found drawn in, and the mask of each object."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from lightning_automl_vision.data.images import read_image
from lightning_automl_vision.data.inputs import Picture
from lightning_automl_vision.data.urls import without_query
from lightning_automl_vision.drawing.objects import annotated
from lightning_automl_vision.outlines import crops_of
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredLabels, ScoredMasks

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
# Colours at full resolution: text and thin lines would be blurred at half of it.
_JPEG_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def write_annotated(folder: Path, picture: Picture, answer: ScoredLabels | ScoredBoxes, maximum_pixels: int) -> Path:
    """A JPEG as JPEG, anything else as PNG, at the size it has."""
    suffix = ".jpg" if Path(without_query(picture.name)).suffix.lower() in _JPEG else ".png"
    pixels = read_image(picture.image, maximum_pixels=maximum_pixels)
    return write_picture(folder / f"{picture.stem}{suffix}", annotated(pixels, answer))


def write_masks(folder: Path, answer: ScoredLabels | ScoredBoxes, image_type: str) -> list[Path]:
    """CLASS/NUMBER.png for each object, white on black at the size of the picture; numbers go from the best on.

    Objects count from 1 as they stand in the answer; one without a sure pixel has no picture.
    """
    if not isinstance(answer, ScoredMasks):
        return []
    written = []
    for number, (name, crop) in enumerate(zip(answer.names, crops_of(answer), strict=True), start=1):
        if not crop.pixels.any():
            continue
        whole = np.zeros((answer.height, answer.width), np.uint8)
        rows, columns = crop.pixels.shape
        whole[crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.pixels * np.uint8(255)
        path = folder / _folder_name(name) / f"mask_{number:04d}.{image_type.lower()}"
        written.append(write_picture(path, whole))
    return written


def write_picture(path: Path, pixels: Pixels) -> Path:
    """RGB or gray, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    _, content = cv2.imencode(path.suffix, stored, _JPEG_QUALITY if path.suffix == ".jpg" else [])
    path.write_bytes(content.tobytes())
    return path


def _folder_name(name: str) -> str:
    """The class, without what no folder's name may hold."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .") or "_"
