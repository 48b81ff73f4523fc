"""By what a training that goes on, and each trial of a sweep, knows the images that it began with."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import DETECTION, SEGMENTATION, box, polygon, read, write_lines
from PIL import Image

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.manifest import fingerprint

SIDE = 200
BOXES = [box("cat"), box("dog", left=0.3)]
POLYGONS = [polygon(label="cat"), polygon([0.2, 0.1, 0.5, 0.1, 0.5, 0.5], label="dog")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures as large as one another in bytes too."""
    for number in range(4):
        show(tmp_path / f"{number}.bmp", slice(0, 0), grey=number)
    return tmp_path


def show(path: Path, rows: slice, grey: int = 0) -> None:
    pixels = np.full((SIDE, SIDE, 3), grey, np.uint8)
    pixels[rows] = 255
    Image.fromarray(pixels).save(path)


def images(folder: Path, task: str, objects: list[dict[str, Any]], second: str = "1.bmp") -> LabelledImages[Any]:
    lines = [
        {"image_url": name, "label": label}
        for name, label in (("0.bmp", objects), (second, objects[:1]), ("2.bmp", []))
    ]
    return read(write_lines(folder / "train.jsonl", lines), task)


def known_by(folder: Path, task: str, objects: list[dict[str, Any]], second: str = "1.bmp") -> str:
    return fingerprint(images(folder, task, objects, second))


@pytest.mark.parametrize(("task", "objects"), [(DETECTION, BOXES), (SEGMENTATION, POLYGONS)])
def test_the_same_images_are_known_again(folder: Path, task: str, objects: list[dict[str, Any]]) -> None:
    first = known_by(folder, task, objects)
    os.utime(folder / "0.bmp", (0, 0))
    assert known_by(folder, task, objects) == first
    assert known_by(folder, task, [objects[0], {**objects[1], "isCrowd": 1}]) != first
    assert known_by(folder, task, [objects[0], {**objects[1], "label": "cat"}]) != first
    assert known_by(folder, task, objects, second="3.bmp") != first


@pytest.mark.parametrize(
    ("task", "objects", "moved"),
    [
        (DETECTION, BOXES, box("dog", left=0.31)),
        (SEGMENTATION, POLYGONS, polygon([0.21, 0.1, 0.5, 0.1, 0.5, 0.5], label="dog")),
    ],
)
def test_an_object_that_was_moved_is_another(folder: Path, task: str, objects: list[Any], moved: Any) -> None:
    assert known_by(folder, task, [objects[0], moved]) != known_by(folder, task, objects)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(130, 137), slice(SIDE - 1, SIDE)])
def test_a_picture_that_shows_something_else_is_another(folder: Path, rows: slice) -> None:
    first = known_by(folder, DETECTION, BOXES)
    show(folder / "0.bmp", rows)
    assert known_by(folder, DETECTION, BOXES) != first


def test_pictures_that_were_exchanged_are_others(folder: Path) -> None:
    first = known_by(folder, DETECTION, BOXES)
    one, other = ((folder / name).read_bytes() for name in ("0.bmp", "1.bmp"))
    (folder / "0.bmp").write_bytes(other)
    (folder / "1.bmp").write_bytes(one)
    assert known_by(folder, DETECTION, BOXES) != first


def test_a_picture_that_has_gone_is_told_by_whoever_needs_it(folder: Path) -> None:
    found = images(folder, DETECTION, BOXES)
    first = fingerprint(found)
    (folder / "1.bmp").unlink()
    assert fingerprint(found) != first
