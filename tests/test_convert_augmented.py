"""Offline augmentation: a data set with augmented copies, which reads and trains as any other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from label_files import DETECTION, MULTICLASS, MULTILABEL, SEGMENTATION, box, config, polygon, write_lines
from pictures import write_objects

from lightning_automl_vision import api
from lightning_automl_vision.data.images import read_image
from lightning_automl_vision.data.labelled import hold_out, read_labelled
from lightning_automl_vision.errors import ConfigError, DataError, StorageError
from lightning_automl_vision.jobs.convert import run
from lightning_automl_vision.samples import Boxes, Masks, Place

LABELS: dict[str, list[Any]] = {
    MULTICLASS: ["cat", "dog", "cat"],
    MULTILABEL: [["cat"], [], ["cat", "dog"]],
    DETECTION: [[box(), box("dog", 0.6, 0.1, 1.0, 1.0, isCrowd=1)], [], [box()]],
    SEGMENTATION: [
        [polygon(), polygon([0.5, 0.5, 1, 0.5, 1, 1], [0.1, 0.6, 0.3, 0.6, 0.3, 0.9], label="dog", isCrowd=1)],
        [],
        [polygon()],
    ],
}


def write_set(folder: Path, labels: list[Any], kind: str = "png") -> Path:
    """Noisy pictures of 90 x 60, in a form of their own each."""
    folder.mkdir(parents=True)
    random, lines = np.random.default_rng(0), []
    for number, label in enumerate(labels):
        cv2.imwrite(str(folder / f"{number}.{kind}"), random.integers(0, 256, (60, 90, 3), dtype=np.uint8))
        lines.append({"image_url": f"{number}.{kind}", "label": label})
    return write_lines(folder / "train.jsonl", lines)


def converted(task: str, source: Path, output: Path, *, augment: Any = None, data: Any = (), **job: Any) -> list[Any]:
    """The lines that the verb writes."""
    settings = api.settings(
        task=task,
        job={"name": "convert", "input": str(source), "output": str(output), **job},
        augment=augment or f"default_for_{task}",
        data={"cache": str(output.parent / "cache"), "minimum_images": 1, **dict(data)},
        training={"random_seed": 5},
        **({"model": "resnet18"} if task in (MULTICLASS, MULTILABEL) else {}),
    )
    run(settings)
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("task", LABELS)
def test_copies_follow_the_originals_and_read_well(task: str, tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", LABELS[task])
    output = tmp_path / "out" / "more.jsonl"
    lines = converted(task, source, output, copies=4)
    assert len(lines) == 3 + 12
    assert [line["image_url"] for line in lines[:3]] == [str(tmp_path / "set" / f"{number}.png") for number in range(3)]
    assert [line["image_url"] for line in lines[3:5]] == ["more_images/000000_0.png", "more_images/000000_1.png"]
    assert sorted(os.listdir(output.parent)) == ["cache", "more.jsonl", "more_images"]
    assert len(os.listdir(output.parent / "more_images")) == 12
    images = read_labelled(str(output), task, config(tmp_path))
    assert images.classes == read_labelled(str(source), task, config(tmp_path)).classes
    for sample, header, line in zip(images.samples, images.headers, lines, strict=True):
        assert line["image_details"] == {"format": "png", "width": f"{header.width}px", "height": f"{header.height}px"}
        if isinstance(sample.target, Boxes):
            assert sample.target.crowd.tolist() == [images.classes[label] == "dog" for label in sample.target.labels]
        else:
            number = int(line["original"].rsplit("/", 1)[1][0])
            assert line["label"] == LABELS[task][number]


@pytest.mark.parametrize("masks", [False, True])
def test_objects_lie_where_they_are_in_the_new_pictures(masks: bool, tmp_path: Path) -> None:
    source = write_objects(tmp_path / "set", count=6, polygons=masks)
    task = SEGMENTATION if masks else DETECTION
    augment = {"name": f"default_for_{task}", "hsv": {"p": 0.0}}  # colours are what is looked at
    converted(task, source, tmp_path / "a.jsonl", copies=5, augment=augment)
    images = read_labelled(str(tmp_path / "a.jsonl"), task, config(tmp_path))
    looked = 0
    for sample in images.samples:
        pixels = read_image(sample.image, maximum_pixels=10**6)
        target = sample.target.placed(Place(0, 0, pixels.shape[1], pixels.shape[0]))
        for label, corners in zip(target.labels, target.boxes, strict=True):
            x, y = ((corners[:2] + corners[2:]) / 2).astype(int)
            channel = {"red": 0, "green": 1, "blue": 2}[images.classes[label]]
            patch = pixels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].reshape(-1, 3).mean(axis=0)
            assert patch.argmax() == channel
            assert patch[channel] > 150
            looked += 1
    assert looked > 30
    assert all(isinstance(sample.target, Masks) == masks for sample in images.samples)


def test_the_seed_decides_what_the_copies_look_like(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", LABELS[DETECTION])
    lines = [converted(DETECTION, source, tmp_path / name / "a.jsonl", copies=2) for name in ("one", "two")]
    assert lines[0] == lines[1]
    pictures = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "a_images").iterdir()} for name in ("one", "two")
    ]
    assert pictures[0] == pictures[1]
    assert len(set(pictures[0].values())) > 3


def test_the_pictures_are_in_the_original_s_format_and_size(tmp_path: Path) -> None:
    flips = {"random_resized_crop": {"enabled": False}, "color_jitter": {"p": 0.0}, "horizontal_flip": {"p": 1.0}}
    for kind, expected in (("jpg", "jpg"), ("png", "png"), ("bmp", "png")):
        source = write_set(tmp_path / kind, ["cat"], kind)
        augment = {"name": f"default_for_{MULTICLASS}", **flips}
        line = converted(MULTICLASS, source, tmp_path / kind / "b.jsonl", augment=augment, copies=1)[1]
        assert line["image_url"] == f"b_images/000000_0.{expected}"
        original, copy = (
            read_image(tmp_path / kind / name, maximum_pixels=10**6) for name in (f"0.{kind}", line["image_url"])
        )
        assert copy.shape == (60, 90, 3)
        difference = np.abs(copy.astype(int) - original[:, ::-1]).max()
        assert difference == 0 if expected == "png" else difference < 120


def test_images_and_their_copies_stay_on_one_side_of_a_split(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", ["cat", "dog"] * 6)
    converted(MULTICLASS, source, tmp_path / "a.jsonl", copies=3)
    images = read_labelled(str(tmp_path / "a.jsonl"), MULTICLASS, config(tmp_path, group_by="original"))
    sides = hold_out(images, config(tmp_path, group_by="original"), 0)
    groups = [{sample.group for sample in side.samples} for side in sides]
    assert not groups[0] & groups[1]
    assert sum(map(len, groups)) == 12


def test_groups_are_kept(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", ["cat", "dog"])
    lines = [{**json.loads(line), "scene": "park"} for line in source.read_text().splitlines()]
    write_lines(source, lines)
    written = converted(MULTICLASS, source, tmp_path / "a.jsonl", data={"group_by": "scene"}, copies=1)
    assert [(line["scene"], line["original"]) for line in written] == [("park", "park")] * 4


def test_what_was_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_set(tmp_path / "set", [[box(left=0.0, right=0.1), box("dog", 0.9, 0.1, 1.0, 0.2)]])
    crop = {"p": 1.0, "scale": [0.1, 0.2]}
    augment = {"name": f"default_for_{DETECTION}", "crop": crop, "expand": {"p": 0.0}, "affine": {"p": 0.0}}
    output = tmp_path / "a.jsonl"
    converted(DETECTION, source, output, augment=augment, copies=3)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{output}: 4 images, 1 of them originals with 2 objects, 2 classes (cat, dog)."
    assert second.startswith(f"{tmp_path / 'a_images'}: the augmented pictures, made with training.random_seed=5; 3 ")
    assert " objects were cut away in them. Train with data.group_by=original, so that no image is on" in second


def test_pictures_go_where_they_are_asked_for(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", ["cat"])
    pictures = tmp_path / "elsewhere" / "new"
    lines = converted(MULTICLASS, source, tmp_path / "out" / "a.jsonl", copies=1, images_dir=str(pictures))
    assert lines[1]["image_url"] == str(pictures / "000000_0.png")
    assert len(read_labelled(str(tmp_path / "out" / "a.jsonl"), MULTICLASS, config(tmp_path))) == 2


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    source, output = write_set(tmp_path / "set", ["cat"]), tmp_path / "a.jsonl"
    (tmp_path / "a_images").mkdir()
    converted(MULTICLASS, source, output, copies=1)
    before = output.read_text()
    with pytest.raises(ConfigError, match=r"images_dir=.*a_images is there already\. Remove it, or name a new folder"):
        converted(MULTICLASS, source, output, copies=2)
    assert output.read_text() == before
    with pytest.raises(ConfigError, match=r"images_dir=.*is there already"):
        converted(MULTICLASS, source, output, copies=2, images_dir=str(source))
    with pytest.raises(StorageError, match=r"below cannot be written: .*images_dir=PATH"):
        converted(MULTICLASS, source, output, copies=2, images_dir=str(source / "below"))


def test_a_fault_leaves_nothing_behind(tmp_path: Path) -> None:
    source, output = write_set(tmp_path / "set", ["cat", "dog"]), tmp_path / "out" / "a.jsonl"
    whole = (tmp_path / "set" / "1.png").read_bytes()
    (tmp_path / "set" / "1.png").write_bytes(whole[:200] + bytes(len(whole) - 220) + whole[-20:])
    with pytest.raises(DataError, match=r"1\.png"):
        converted(MULTICLASS, source, output, copies=2)
    assert [name for name in os.listdir(output.parent) if name != "cache"] == []


@pytest.mark.parametrize("task", LABELS)
def test_copies_that_would_be_the_originals_again_are_refused(task: str, tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", LABELS[task])
    with pytest.raises(ConfigError, match=r"copies=2: nothing is augmented.*Leave augment out.*or ask for copies=0"):
        converted(task, source, tmp_path / "a.jsonl", augment="none", copies=2)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"augment": {"horizontal_flip": {"p": 1.0}}}, r"augment.horizontal_flip.p=1.0: nothing is augmented without"),
        ({"augment": "none"}, r"augment=none: nothing is augmented without copies. Ask for some: copies=1"),
        ({"training": {"random_seed": 1}}, r"training.random_seed=1: nothing is augmented without copies"),
        ({"limits": {"timeout_minutes": 1}, "copies": 1}, r"limits.timeout_minutes=1: lav convert trains nothing"),
    ],
)
def test_what_converting_would_not_obey_is_refused(keys: dict[str, Any], answer: str, tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", ["cat", "dog"])
    copies = keys.pop("copies", 0)
    job = {"name": "convert", "input": str(source), "output": str(tmp_path / "a.jsonl"), "copies": copies}
    with pytest.raises(ConfigError, match=answer):
        run(api.settings(task=MULTICLASS, job=job, **keys))
    assert not (tmp_path / "a.jsonl").exists()


def test_a_folder_for_no_pictures_is_refused(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", ["cat"])
    with pytest.raises(ConfigError, match=r"images_dir=x: there are no pictures to write"):
        converted(MULTICLASS, source, tmp_path / "a.jsonl", images_dir="x")
