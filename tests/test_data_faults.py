"""Every fault in the labels is one line that says where, what and the way out; or it is dropped and counted."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import pytest
from label_files import (
    DETECTION,
    MULTICLASS,
    MULTILABEL,
    SEGMENTATION,
    box,
    config,
    hear,
    names,
    picture,
    pictures,
    polygon,
    read,
    write_labels,
    write_lines,
)

from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.errors import ConfigError, DataError, VisionError

NAN, INFINITY = float("nan"), float("inf")


def refused(path: Path, task: str, *parts: str, **keys: Any) -> str:
    """The message of the refusal: one line that holds the parts."""
    with pytest.raises(VisionError) as caught:
        read(path, task, **keys)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def dropped(path: Path, task: str, **keys: Any) -> dict[str, int]:
    return dict(read(path, task, ignore_data_errors=True, **keys).dropped)


BOX_FAULTS = [
    (box(left=0.7, right=0.2), "reversed box", "[0.7, 0.2, 0.2, 0.6] of 'cat' is reversed"),
    (box(top=0.9, bottom=0.2), "reversed box", "topY < bottomY"),
    (box(left=0.5), "box without area", "has no area"),
    (box(left=-0.1), "outside the image", "x=-0.1 is negative"),
    (box(bottom=1.2), "outside the image", "y=1.2 is too large"),
    (box(right=120), "outside the image", "shares of the picture's width and height"),
    (box(left=NAN), "not a number", "topX=nan"),
    (box(left=INFINITY), "not a number", "topX=inf"),
    (box(left="half"), "not a number", "topX='half'"),
    (box(left=10**400), "not a number", "topX=inf"),
    (box(left=True), "not a number", "topX=True"),
    (box(left=None), "not a number", "topX=None"),
    (box(left=[0.1]), "not a number", "topX=[0.1]"),
    (box(label=""), "empty label", "the label is empty: ''"),
    (box(label=" "), "empty label", "the label is empty"),
    (box(label=3), "label of a wrong type", "a label must be text, not 3"),
    (box(label=None), "label of a wrong type", "not None"),
    ({"topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1}, "no label", "no 'label', only ['topX'"),
    ({"label": "cat", "topX": 0, "topY": 0}, "no box", "no bottomX and no bottomY"),
    (polygon(), "no box", "task=image_instance_segmentation"),
    (box(isCrowd="perhaps"), "isCrowd of a wrong type", "isCrowd='perhaps'"),
    (box(isCrowd=2), "isCrowd of a wrong type", "isCrowd=2"),
    ("cat", "label of a wrong type", "task=image_classification_multilabel"),
    (7, "label of a wrong type", "not 7"),
]


@pytest.mark.parametrize(("item", "reason", "text"), BOX_FAULTS)
def test_faulty_box_names_file_line_and_value(tmp_path: Path, item: Any, reason: str, text: str) -> None:
    path = write_labels(tmp_path / "set", [[box()], [box(), item]])
    message = refused(path, DETECTION, text, "train.jsonl:2, object 2 of 2: ")
    assert message.endswith("data.ignore_data_errors=true.")


@pytest.mark.parametrize(("item", "reason", "text"), BOX_FAULTS)
def test_faulty_box_is_dropped_and_counted(tmp_path: Path, item: Any, reason: str, text: str) -> None:
    path = write_labels(tmp_path / "set", [[box()], [box("dog"), item]])
    images = read(path, DETECTION, ignore_data_errors=True)
    assert names(images) == [["cat"], ["dog"]]
    assert images.dropped == {reason: 1}


POLYGON_FAULTS = [
    (polygon([0.1, 0.1, 0.5, 0.5]), "polygon of under 3 points", "a polygon of 2 points, [0.1, 0.1, 0.5, 0.5]"),
    (polygon([]), "polygon of under 3 points", "a polygon of 0 points"),
    (polygon([0.1, 0.1, 0.5, 0.5, 0.3]), "odd number of coordinates", "a polygon of 5 numbers"),
    (polygon([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]), "polygon has no area", "has no area"),
    (polygon([0.1, 0.1, 0.5, 0.1, 0.5, 1.5]), "outside the image", "y=1.5 is too large"),
    (polygon([0.1, NAN, 0.5, 0.1, 0.5, 0.5]), "not a number", "a coordinate=nan"),
    (polygon([0.1, "x", 0.5, 0.1, 0.5, 0.5]), "not a number", "'x' is not a number"),
    ({"label": "cat", "polygon": [0.1, 0.1, 0.5, 0.1, 0.5, 0.5]}, "polygon of a wrong type", "not a list of lists"),
    ({"label": "cat", "polygon": []}, "polygon of a wrong type", "the polygon is []"),
    ({"label": "cat", "polygon": "0.1"}, "polygon of a wrong type", "the polygon is '0.1'"),
    ({"label": "cat"}, "no polygon", "no 'polygon'"),
    (box(), "no polygon", "task=image_object_detection"),
    (polygon(label=""), "empty label", "the label is empty"),
]


@pytest.mark.parametrize(("item", "reason", "text"), POLYGON_FAULTS)
def test_faulty_polygon(tmp_path: Path, item: Any, reason: str, text: str) -> None:
    path = write_labels(tmp_path / "set", [[polygon(label="dog"), item], []])
    refused(path, SEGMENTATION, text, "train.jsonl:1, object 2 of 2: ")
    images = read(path, SEGMENTATION, ignore_data_errors=True)
    assert names(images) == [["dog"], []]
    assert images.dropped == {reason: 1}


def test_image_whose_every_object_is_faulty_is_no_negative_image(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", [[box()], [box(left=0.5)]])
    images = read(path, DETECTION, ignore_data_errors=True)
    assert len(images) == 1
    assert images.dropped == {"box without area": 1, "no object left": 1}


def test_rounding_beyond_an_edge_is_put_on_it_but_no_more(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", [[box(left=-5e-7, right=1.0000005)]])
    assert read(path, DETECTION).samples[0].target.boxes.tolist() == [[0, 0.2, 1, 0.6]]
    path = write_labels(tmp_path / "set", [[box(right=1.000002)]])
    refused(path, DETECTION, "x=1.000002 is too large")


LABEL_FAULTS = [
    (MULTICLASS, ["cat"], "label of a wrong type", "task=image_classification_multilabel"),
    (MULTICLASS, [box()], "label of a wrong type", "task=image_object_detection"),
    (MULTICLASS, 3, "label of a wrong type", "a label must be text, not 3"),
    (MULTICLASS, None, "label of a wrong type", "not None"),
    (MULTICLASS, {"label": "cat"}, "label of a wrong type", "a label must be text"),
    (MULTICLASS, "", "empty label", "the label is empty: ''"),
    (MULTILABEL, "cat", "label of a wrong type", "a list is expected, not 'cat'"),
    (MULTILABEL, {"label": "cat"}, "label of a wrong type", "a list of text is expected"),
    (MULTILABEL, None, "label of a wrong type", "not None"),
    (DETECTION, "cat", "label of a wrong type", "task=image_classification"),
    (DETECTION, 5, "label of a wrong type", "empty for an image without objects"),
]


@pytest.mark.parametrize(("task", "label", "reason", "text"), LABEL_FAULTS)
def test_label_of_a_wrong_kind_drops_the_line(tmp_path: Path, task: str, label: Any, reason: str, text: str) -> None:
    good = {MULTICLASS: "cat", MULTILABEL: ["cat"], DETECTION: [box()]}[task]
    path = write_labels(tmp_path / "set", [good, label])
    refused(path, task, text, "train.jsonl:2: ")
    assert dropped(path, task) == {reason: 1}


def test_label_listed_twice(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", [["cat", "dog", "cat"]])
    refused(path, MULTILABEL, "train.jsonl:1: the label 'cat' is listed twice")
    assert names(read(path, MULTILABEL, ignore_data_errors=True)) == [["cat", "dog"]]


LINES = [
    ('{"image_url": "1.png", "label": "cat",}', "a trailing comma at column 38"),
    ('{"image_url": "1.png", "label": "cat"},', "a trailing comma after the object"),
    ('{"image_url": "1.png", "label": ["cat",]}', "a trailing comma at column 39"),
    ("{'image_url': '1.png'}", "not JSON at column 2"),
    ('{"image_url": "1.png", "label": "cat"} {"image_url": "2.png"}', "more than one object on the line"),
    ('"1.png"', "not a JSON object but '1.png'"),
    ('{"imageUrl": "1.png", "label": "cat"}', "no 'image_url', only ['imageUrl', 'label']"),
    ('{"image_url": "1.png"}', "no 'label', only ['image_url']"),
    ('{"image_url": "", "label": "cat"}', "the image name is ''"),
    ('{"image_url": 5, "label": "cat"}', "the image name is 5, not text"),
    ('{"image_url": "../secret.png", "label": "cat"}', "leads out of"),
    ('{"image_url": "azureml://datastores/mine/paths/1.png", "label": "cat"}', "data.url_prefixes"),
    ('{"image_url": "0.png", "label": "cat"}', "'0.png' is named again, first at"),
    ('{"image_url": "0.png", "label": "dog"}', "has the label 'dog', but 'cat' at"),
    ('{"image_url": "gone.png", "label": "cat"}', "there is no such file"),
    ("[" * 100000 + "]" * 100000, "nested too deeply"),
]


@pytest.mark.parametrize(("line", "text"), LINES, ids=[text for _, text in LINES])
def test_faulty_line_names_file_line_and_way_out(tmp_path: Path, line: str, text: str) -> None:
    pictures(tmp_path / "set", 2)
    good = '{"image_url": "0.png", "label": "cat"}'
    path = write_lines(tmp_path / "set" / "train.jsonl", [good, "", line])
    refused(path, MULTICLASS, f"{path}:3: ", text, "data.ignore_data_errors=true")
    images = read(path, MULTICLASS, ignore_data_errors=True)
    assert len(images) == 1
    assert sum(images.dropped.values()) == 1


def test_byte_order_mark_line_ends_and_blank_lines_are_understood(tmp_path: Path) -> None:
    pictures(tmp_path / "set", 2)
    path = tmp_path / "set" / "train.jsonl"
    lines = [json.dumps({"image_url": name, "label": "katze ä"}, ensure_ascii=False) for name in ("0.png", "1.png")]
    path.write_bytes(codecs.BOM_UTF8 + "\r\n\r\n".join(lines).encode() + b"\r\n  \r\n")
    images = read(path, MULTICLASS)
    assert images.classes == ("katze ä",)
    assert [sample.line for sample in images.samples] == [1, 3]


@pytest.mark.parametrize(("encoding", "key"), [("latin-1", "latin-1"), ("utf-16", "utf-16"), ("utf-32", "utf-32")])
def test_encoding_is_named_or_refused(tmp_path: Path, encoding: str, key: str) -> None:
    pictures(tmp_path / "set", 1)
    path = tmp_path / "set" / "train.jsonl"
    path.write_bytes(json.dumps({"image_url": "0.png", "label": "Bär"}, ensure_ascii=False).encode(encoding))
    refused(path, MULTICLASS, ":1: ", f"data.encoding={key}")
    assert read(path, MULTICLASS, encoding=key).classes == ("Bär",)


def test_unknown_encoding(tmp_path: Path) -> None:
    refused(write_labels(tmp_path / "set", ["cat"]), MULTICLASS, "data.encoding=utf-9", encoding="utf-9")


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (json.dumps({"image_url": "0.png", "label": "cat"}, indent=2), "one JSON object is spread over many lines"),
        (json.dumps([{"image_url": "0.png", "label": "cat"}], indent=2), "spread over many lines"),
        (json.dumps([{"image_url": "0.png", "label": "cat"}]), "a JSON array of objects"),
    ],
)
def test_document_in_another_layout_is_never_dropped_line_by_line(
    tmp_path: Path, content: str, text: str, ignore: bool
) -> None:
    path = write_lines(tmp_path / "set" / "train.jsonl", [content])
    refused(path, MULTICLASS, text, "train.jsonl:1: ", "jq -c", ignore_data_errors=ignore)


def test_empty_file(tmp_path: Path) -> None:
    refused(write_lines(tmp_path / "set" / "train.jsonl", []), MULTICLASS, "no labelled image is left (it holds none)")


def test_when_everything_is_dropped_the_reasons_are_named(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", [3, 4, ""])
    refused(path, MULTICLASS, "dropped: empty label 1, label of a wrong type 2", ignore_data_errors=True)


def test_missing_label_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.jsonl", MULTICLASS, "none.jsonl: no such file or folder")


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "is empty"), (b"hello, this is no picture", "is not an image"), (None, "no such file")],
)
def test_unusable_image_is_found_before_training(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = write_labels(tmp_path / "set", ["cat", "dog"])
    (tmp_path / "set" / "1.png").unlink()
    if content is not None:
        (tmp_path / "set" / "1.png").write_bytes(content)
    refused(path, MULTICLASS, "train.jsonl:2: image ", "1.png", text)
    assert dropped(path, MULTICLASS) == {"unusable image": 1}


def test_class_seen_only_on_a_dropped_image_is_no_class(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", ["zebra", "cat", "dog"])
    (tmp_path / "set" / "0.png").write_bytes(b"")
    images = read(path, MULTICLASS, ignore_data_errors=True)
    assert images.classes == ("cat", "dog")
    assert names(images) == [["cat"], ["dog"]]


def test_picture_of_too_many_pixels(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", ["cat", "dog"])
    refused(path, MULTICLASS, "train.jsonl:1: ", "200", maximum_image_pixels=199)
    assert len(read(path, MULTICLASS, maximum_image_pixels=200)) == 2


def splits_refused(folder: Path, task: str, *parts: str, **keys: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_data(config(folder, **keys), task, seed=0)
    for part in parts:
        assert part in str(caught.value)


def test_validation_class_unseen_in_training(tmp_path: Path) -> None:
    training = write_labels(tmp_path / "a", ["cat", "dog"])
    validation = write_labels(tmp_path / "b", ["cat", "dogs"])
    keys = {"training": str(training), "validation": str(validation)}
    parts = ("train.jsonl:2: the label 'dogs' does not occur in the training set. Did you mean 'dog'?", "cat, dog")
    splits_refused(tmp_path, MULTICLASS, *parts, **keys)
    splits = load_data(config(tmp_path, ignore_data_errors=True, **keys), MULTICLASS, seed=0)
    assert len(splits.validation) == 1
    assert splits.dropped == {"unknown label": 1}


def test_validation_box_of_an_unseen_class(tmp_path: Path) -> None:
    training = write_labels(tmp_path / "a", [[box()]])
    validation = write_labels(tmp_path / "b", [[box("dog")]])
    keys = {"training": str(training), "validation": str(validation)}
    splits_refused(tmp_path, DETECTION, "object 1 of 1: the label 'dog' does not occur in the training set", **keys)


def test_one_class_only(tmp_path: Path) -> None:
    training = write_labels(tmp_path / "set", ["cat"] * 3)
    splits_refused(tmp_path, MULTICLASS, "every image has the same label, 'cat'", training=str(training))


def test_no_label_at_all(tmp_path: Path) -> None:
    training = write_labels(tmp_path / "set", [[], [], []])
    for task in (MULTILABEL, DETECTION, SEGMENTATION):
        splits_refused(tmp_path, task, "no label at all", training=str(training))


def test_too_few_images(tmp_path: Path) -> None:
    training = write_labels(tmp_path / "set", ["cat", "dog"] * 4)
    parts = ("8 labelled images, fewer than data.minimum_images=10",)
    splits_refused(tmp_path, MULTICLASS, *parts, training=str(training), minimum_images=10)


def test_training_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.training=PATH"):
        load_data(config(tmp_path), MULTICLASS, seed=0)


def test_images_of_both_sets_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(caplog, monkeypatch)
    training = str(write_labels(tmp_path / "set", ["cat", "dog"] * 10))
    load_data(config(tmp_path, training=training, validation=training), MULTICLASS, seed=0)
    assert "20 of its images are also in the training set" in caplog.text


def test_rare_classes_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(caplog, monkeypatch)
    training = str(write_labels(tmp_path / "set", ["cat"] * 12 + ["dog"] * 3))
    load_data(config(tmp_path, training=training), MULTICLASS, seed=0)
    assert "fewer than 10 images of dog 3" in caplog.text


@pytest.mark.parametrize(
    ("group_by", "text"),
    [
        ("scene", "no group: 'scene' is None"),
        ("^([a-z]+)", "finds nothing in '0.png'"),
        ("([0-9", "not a regular expression"),
        ("([0-9])(x)", "2 groups in parentheses"),
    ],
)
def test_groups_that_cannot_be_found(tmp_path: Path, group_by: str, text: str) -> None:
    refused(write_labels(tmp_path / "set", ["cat", "dog"]), MULTICLASS, text, group_by=group_by)


def test_image_name_may_leave_its_root_when_allowed(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere.png")
    path = write_lines(tmp_path / "set" / "train.jsonl", [{"image_url": "../elsewhere.png", "label": "cat"}])
    message = refused(path, MULTICLASS, "data.confine_images=false")
    assert re.match(re.escape(f"{path}:1: "), message)
    assert len(read(path, MULTICLASS, confine_images=False)) == 1
