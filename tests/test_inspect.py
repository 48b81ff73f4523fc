"""``lav inspect``: sheets of pictures as they are labelled, and as a training sees them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import write_folders, write_multilabel, write_objects

from lightning_automl_vision import api
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.data.module import Item
from lightning_automl_vision.data.prepared import Prepared
from lightning_automl_vision.drawing.sheets import COLUMN, panel
from lightning_automl_vision.errors import ConfigError, DataError, StorageError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.jobs import inspect as verb
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import Boxes, Labels
from lightning_automl_vision.training.session import TrainingSession, checked_transform

MODELS: dict[str, Any] = {
    "image_classification": "resnet18",
    "image_classification_multilabel": "resnet18",
    "image_object_detection": {"name": "yolov5", "model_size": "nano", "image_size": 96},
    "image_instance_segmentation": {"name": "maskrcnn_resnet18_fpn", "min_size": 96, "max_size": 120},
}


def labelled(task: str, folder: Path) -> Path:
    if task == "image_classification":
        return write_folders(folder)
    if task == "image_classification_multilabel":
        return write_multilabel(folder)
    return write_objects(folder, polygons=task == "image_instance_segmentation")


def composed(data: Path, output: Path, task: str = "image_object_detection", **keys: Any) -> Any:
    job = {"name": "inspect", "output": str(output), **keys.pop("job", {})}
    if job.get("pictures"):
        job = {"count": 6, **job}
    training = {"random_seed": 3, **keys.pop("training", {})}
    return api.settings(task=task, model=MODELS[task], data={"training": str(data)}, training=training, job=job, **keys)


def pixels_of(file: Path) -> np.ndarray:
    pixels = cv2.imread(str(file))
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("task", sorted(MODELS))
@pytest.mark.parametrize("pictures", ["augmentations", "annotations"])
def test_every_task_has_a_sheet(task: str, pictures: str, tmp_path: Path, capsys: Any) -> None:
    data = labelled(task, tmp_path / "data")
    asked = composed(data, tmp_path / "out", task, job={"pictures": pictures, "count": 5})
    verb.run(asked)
    file = tmp_path / "out" / f"{pictures}.jpg"
    height, width = pixels_of(file).shape[:2]
    assert width == 4 * COLUMN + 3 * 8
    assert height > 1.5 * COLUMN
    assert capsys.readouterr().out.startswith(f"{file}: 5 ")
    with pytest.raises(ConfigError, match=rf"already holds {pictures}\.jpg"):
        verb.run(asked)


def test_a_sheet_shows_what_a_training_is_given(tmp_path: Path) -> None:
    """The pictures of the first batches, in their order."""
    data = write_objects(tmp_path / "data")
    settings = composed(
        data,
        tmp_path / "out",
        job={"pictures": "augmentations"},
        augment={"mosaic": {"p": 0.5}},
        training={"training_batch_size": 3, "number_of_workers": 0},
    )
    _, shown = verb._augmented(settings)
    first = [next(shown) for _ in range(6)]
    splits = load_data(settings.data, settings.task.name, seed=3)
    session = TrainingSession.prepare(settings, model_spec("yolov5"), splits, checked_transform(settings), 3)
    loader = session._loader(splits.training, session.transform, 3, shuffle=True)
    pictures = [
        (image.permute(1, 2, 0).numpy(), width, height)
        for batch, _ in zip(loader, range(2), strict=False)
        for image, (width, height) in zip(batch.images, batch.picture_sizes, strict=True)
    ]
    for one, (pixels, width, height) in zip(first, pictures, strict=True):
        assert one.pixels.shape == (height, width, 3)
        assert (pixels[:height, :width] == one.pixels).all()


def test_captions_tell_of_every_image_in_a_picture(tmp_path: Path) -> None:
    data = write_objects(tmp_path / "data")
    settings = composed(data, tmp_path / "out", augment={"mosaic": {"p": 1.0}}, job={"pictures": "augmentations"})
    _, shown = verb._augmented(settings)
    name, others = next(shown).captions
    assert name.endswith(".png")
    assert others.startswith("mosaic with ")
    assert others.count(".png") == 3
    assert verb._kinds([]) == [""]
    assert verb._kinds(["a"]) == ["blended with a"]
    assert verb._kinds(list("abcdefg")) == ["two blended mosaics, with a, b, c and 4 more"]


def test_a_sheet_shows_the_tiles_of_a_training(tmp_path: Path) -> None:
    data = write_objects(tmp_path / "data")
    sheets = []
    for number, tiler in enumerate(("none", {"name": "grid", "grid_size": "2x2"})):
        job = {"pictures": "augmentations", "count": 12}
        verb.run(composed(data, tmp_path / str(number), job=job, tiler=tiler, training={"random_seed": 1}))
        sheets.append(pixels_of(tmp_path / str(number) / "augmentations.jpg"))
    assert sheets[0].shape != sheets[1].shape or (sheets[0] != sheets[1]).any()
    item = Item(
        Prepared(pixels=sheets[0], target=Labels(labels=np.array([0]))), "folder/a.png", 0, Window(4, 8, 20, 40)
    )
    assert verb._shown_part(item) == "a.png 16x32+4+8"
    assert verb._shown_part(replace(item, window=None)) == "a.png"


def test_the_seed_decides_and_more_epochs_follow(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data")
    task = "image_classification"
    files = []
    for number, seed in enumerate((3, 3, 4)):
        job = {"pictures": "augmentations", "count": 30}
        folder = tmp_path / str(number)
        verb.run(composed(data, folder, task, job=job, training={"random_seed": seed}))
        files.append(pixels_of(folder / "augmentations.jpg"))
    assert (files[0] == files[1]).all()
    assert files[0].shape == files[2].shape
    assert (files[0] != files[2]).any()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"asked for nothing\. Say what to write: pictures=augmentations"),
        ({"checkpoint": "run"}, r"checkpoint=.*looks at data"),
        ({"trainer": {"max_steps": 3}}, r"trainer\.max_steps=3: lav inspect looks at data"),
        ({"output_dir": "x"}, r"Name it with output=FOLDER"),
        ({"augment": {"hsv": {"p": 1.0}}, "job": {"pictures": "annotations"}}, r"augment\.hsv\.p=.*not augmented"),
        (
            {"augment": {"hsv": {"p": 1.0}}, "job": {"pictures": None, "report": "tiling"}},
            r"augment\.hsv\.p=.*report looks at is not augmented",
        ),
        ({"tiler": "grid", "job": {"pictures": None, "report": "tiling"}}, r"tiler=grid: the report tries every grid"),
        ({"tiler": "grid", "job": {"pictures": "annotations"}}, r"tiler=grid: annotations are shown whole"),
        ({"job": {"pictures": None, "report": "tiling", "count": 3}}, r"count=3: no pictures were asked for"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    job = {"pictures": "augmentations"} if keys else {}
    data = write_objects(tmp_path / "data")
    with pytest.raises(ConfigError, match=message):
        verb.run(composed(data, tmp_path / "out", **{**keys, "job": {**job, **keys.get("job", {})}}))
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    data = write_objects(tmp_path / "data")
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match=r"is a file\. Name a folder"):
        verb.run(composed(data, tmp_path / "out", job={"pictures": "annotations"}))


@pytest.mark.parametrize("place", ["train.jsonl/sheet", "/proc/sheet"])
def test_a_place_that_cannot_be_written_to_is_refused(place: str, tmp_path: Path) -> None:
    write_objects(tmp_path)
    (tmp_path / "train.jsonl").touch()
    settings = composed(tmp_path / "train.jsonl", tmp_path / place, job={"pictures": "annotations"})
    with pytest.raises(StorageError, match=r"sheet cannot be written: .*\. Name a folder that can be: output=PATH\."):
        verb.run(settings)


def test_a_picture_that_cannot_be_read_ends_it_without_a_sheet(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data")
    settings = composed(data, tmp_path / "out", "image_classification", job={"pictures": "augmentations"})
    _, shown = verb._augmented(settings)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError):
        next(shown)


def test_a_panel_is_a_column_wide_and_marks_objects() -> None:
    pixels = np.full((50, 100, 3), 90, np.uint8)
    target = Boxes(labels=np.array([0]), boxes=np.array([[20.0, 10.0, 60.0, 40.0]]), crowd=np.array([False]))
    drawn = panel(pixels, target, ("nut",), ["a.jpg", "more"])
    plain = panel(pixels, Labels(labels=np.array([0])), ("nut",), ["a.jpg"])
    assert drawn.shape[1] == plain.shape[1] == COLUMN
    assert drawn.shape[0] == plain.shape[0] == COLUMN // 2 + 42
    assert (drawn[: COLUMN // 2] != 90).any()
    assert (plain[: COLUMN // 2] == 90).all()
    tall = panel(pixels.transpose(1, 0, 2), Labels(labels=np.array([], np.int64)), ("nut",), ["a.jpg"])
    assert tall.shape == (COLUMN + 42, COLUMN, 3)


@pytest.mark.parametrize("task", ["image_object_detection", "image_instance_segmentation"])
def test_a_report_on_tiling_tells_the_keys_to_use(task: str, tmp_path: Path, capsys: Any) -> None:
    """Objects of 24 to 43 pixels in pictures of 96: no tiling is needed when they are not made smaller."""
    asked = composed(labelled(task, tmp_path / "data"), tmp_path / "out", task, job={"report": "tiling"})
    verb.run(asked)
    told = json.loads((tmp_path / "out" / "tiling.json").read_text())
    assert (told["images"], told["candidates"][0]["name"]) == (16, "no tiling")
    assert told["model"] == MODELS[task]["name"]
    assert len(told["candidates"]) == 49
    assert told["recommended"]["keys"] == "tiler=none"
    assert pixels_of(tmp_path / "out" / "tiling.png").shape == (700, 1400, 3)
    printed = capsys.readouterr().out
    assert ">  no tiling" in printed
    assert printed.endswith("To use it: tiler=none\n")
    with pytest.raises(ConfigError, match=r"already holds tiling\.json"):
        verb.run(asked)


def test_small_objects_under_a_models_resizing_are_advised_to_be_tiled(tmp_path: Path, capsys: Any) -> None:
    data = write_objects(tmp_path / "data", side=320)
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    small = {"topX": 0.4, "topY": 0.2, "bottomX": 0.45, "bottomY": 0.25, "label": "red"}
    data.write_text("\n".join(json.dumps({**line, "label": [small]}) for line in lines))
    for number, size in enumerate((160, 640)):
        settings = composed(data, tmp_path / str(number), job={"report": "tiling"})
        settings.model.image_size = size
        verb.run(settings)
    printed = capsys.readouterr().out
    first, second = (json.loads((tmp_path / name / "tiling.json").read_text()) for name in ("0", "1"))
    assert first["resizing"] == {"resize": "long_side", "img_size": 160}
    assert first["candidates"][0]["sizes"]["0.50"] == 8.0
    assert first["recommended"]["keys"].startswith("tiler=grid tiler.grid_size=")
    assert f"To use it: {first['recommended']['keys']}" in printed
    assert second["recommended"]["grid_size"] is None


def test_a_report_obeys_the_letterbox_that_was_asked_for(tmp_path: Path) -> None:
    data, letterbox = write_objects(tmp_path / "data"), {"resize": "letterbox", "letterbox_size": 64}
    verb.run(composed(data, tmp_path / "out", augment=letterbox, job={"report": "tiling"}))
    told = json.loads((tmp_path / "out" / "tiling.json").read_text())
    assert told["resizing"] == {"resize": "letterbox", "valid_crop_size": 64, "fill": 114}


def test_pictures_and_a_report_come_together_or_not_at_all(tmp_path: Path) -> None:
    asked = composed(
        write_objects(tmp_path / "data"), tmp_path / "out", job={"pictures": "annotations", "report": "tiling"}
    )
    verb.run(asked)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations.jpg",
        "tiling.json",
        "tiling.png",
    ]
    for name in ("annotations.jpg", "tiling.json"):
        (tmp_path / "out" / name).unlink()
    with pytest.raises(ConfigError, match=r"already holds tiling\.png"):
        verb.run(asked)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiling.png"]


@pytest.mark.parametrize("task", ["image_classification", "image_classification_multilabel"])
def test_tiling_is_no_matter_of_classification(task: str, tmp_path: Path) -> None:
    data = labelled(task, tmp_path / "data")
    with pytest.raises(ConfigError, match=rf"report=tiling: .* {task} finds none"):
        verb.run(composed(data, tmp_path / "out", task, job={"report": "tiling"}))
    assert not (tmp_path / "out").exists()
