"""JSON Lines, CSV, folders and MLTable: what they say arrives as samples, in relative coordinates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
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

from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.data.readers import FORMATS, reader
from lightning_automl_vision.errors import ConfigError, DataError, VisionError
from lightning_automl_vision.samples import Place
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.specs import TASKS


def test_classes_are_sorted_and_labels_refer_to_them(tmp_path: Path) -> None:
    images = read(write_labels(tmp_path / "set", ["wolf", "ape", "wolf"]), MULTICLASS)
    assert images.classes == ("ape", "wolf")
    assert [sample.target.labels.tolist() for sample in images.samples] == [[1], [0], [1]]
    assert [sample.line for sample in images.samples] == [1, 2, 3]
    assert [(header.width, header.height) for header in images.headers] == [(20, 10)] * 3


def test_several_labels_are_sorted_and_may_be_none(tmp_path: Path) -> None:
    images = read(write_labels(tmp_path / "set", [["wolf", "ape"], [], ["bee"]]), MULTILABEL)
    assert [sample.target.labels.tolist() for sample in images.samples] == [[0, 2], [], [1]]


def test_known_classes_keep_their_order(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", ["ape"])
    images = read_labelled(str(path), MULTICLASS, config(tmp_path), classes=("wolf", "ape"))
    assert images.classes == ("wolf", "ape")
    assert images.samples[0].target.labels.tolist() == [1]


def test_boxes_crowds_and_negative_images(tmp_path: Path) -> None:
    labels = [[box("dog", isCrowd=1), box("cat", 0, 0, 1, 1)], []]
    first, second = read(write_labels(tmp_path / "set", labels), DETECTION).samples
    assert first.target.boxes.tolist() == [[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]
    assert first.target.labels.tolist() == [1, 0]
    assert first.target.crowd.tolist() == [True, False]
    assert second.target.boxes.shape == (0, 4)
    assert second.target.crowd.shape == (0,)


CROWD = {True: (1, True, "true", "True", "1"), False: (0, False, "false", "False", "0", None)}


@pytest.mark.parametrize(("value", "crowd"), [(value, crowd) for crowd, values in CROWD.items() for value in values])
def test_every_spelling_of_crowd(tmp_path: Path, value: Any, crowd: bool) -> None:
    sample = read(write_labels(tmp_path / "set", [[box(isCrowd=value)]]), DETECTION).samples[0]
    assert sample.target.crowd.tolist() == [crowd]


def test_numbers_written_as_text_are_understood(tmp_path: Path) -> None:
    labels = [[box(left="0.25", right="1", isCrowd="false")]]
    sample = read(write_labels(tmp_path / "set", labels), DETECTION).samples[0]
    assert sample.target.boxes.tolist() == [[0.25, 0.2, 1, 0.6]]
    parts = ["0.1", "0.1", "0.5", "0.1", "0.5", "0.5"]
    sample = read(write_labels(tmp_path / "set", [[polygon(parts)]]), SEGMENTATION).samples[0]
    assert sample.target.polygons[0][0].tolist() == [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]


def test_single_object_without_a_list_is_read_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(caplog, monkeypatch)
    images = read(write_labels(tmp_path / "set", [box(), [box()], box()]), DETECTION)
    assert names(images) == [["cat"]] * 3
    assert list(images.notes.values()) == [2]
    assert "read as a list of one (2 times)" in caplog.text


def test_polygons_of_several_parts_have_one_box(tmp_path: Path) -> None:
    parts = [[0, 0, 0.25, 0, 0.25, 0.5], [0.5, 0.5, 0.75, 0.5, 0.75, 1]]
    target = read(write_labels(tmp_path / "set", [[polygon(*parts)]]), SEGMENTATION).samples[0].target
    assert [part.shape for part in target.polygons[0]] == [(3, 2), (3, 2)]
    assert target.boxes.tolist() == [[0, 0, 0.75, 1]]


def test_json_lines_in_a_json_file_are_recognised(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "set", ["cat"])
    assert names(read(path.rename(path.with_suffix(".json")), MULTICLASS)) == [["cat"]]


def test_size_comes_from_the_image_and_never_from_the_details(tmp_path: Path) -> None:
    pictures(tmp_path / "set", 1)
    details = {"width": "4000px", "height": "nonsense", "format": "gif"}
    line = {"image_url": "0.png", "image_details": details, "label": "cat"}
    header = read(write_lines(tmp_path / "set" / "a.jsonl", [line]), MULTICLASS).headers[0]
    assert (header.width, header.height) == (20, 10)


def test_image_names_relative_absolute_url_and_mapped(tmp_path: Path) -> None:
    image = picture(tmp_path / "pictures" / "a.png")
    with fsspec.open("memory://lav_test/b.png", "wb") as file:
        file.write(image.read_bytes())
    urls = ["../pictures/a.png", "file://" + str(picture(tmp_path / "c.png")), "memory://lav_test/b.png"]
    urls += [str(picture(tmp_path / "d.png")), "azureml://datastores/x/paths/a.png"]
    lines = [{"image_url": url, "label": "cat"} for url in urls]
    picture(tmp_path / "mapped" / "a.png")
    prefixes = [f"azureml://datastores/x/paths/={tmp_path}/mapped/"]
    path = write_lines(tmp_path / "set" / "train.jsonl", lines)
    assert len(read(path, MULTICLASS, url_prefixes=prefixes, confine_images=False)) == 5


def test_label_file_itself_may_be_a_url(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    for name, content in (("0.png", image.read_bytes()), ("t.jsonl", b'{"image_url": "0.png", "label": "cat"}\n')):
        with fsspec.open(f"memory://lav_labels/{name}", "wb") as file:
            file.write(content)
    images = read_labelled("memory://lav_labels/t.jsonl", MULTICLASS, config(tmp_path))
    assert images.samples[0].image == "memory://lav_labels/0.png"


def test_groups_come_from_a_key_or_from_the_name(tmp_path: Path) -> None:
    names = [picture(tmp_path / "set" / name).name for name in ("a_1.png", "b_1.png")]
    lines = [{"image_url": name, "label": "cat", "scene": number} for number, name in enumerate(names)]
    path = write_lines(tmp_path / "set" / "train.jsonl", lines)
    assert [sample.group for sample in read(path, MULTICLASS, group_by="scene").samples] == ["0", "1"]
    assert [sample.group for sample in read(path, MULTICLASS, group_by="^([a-z])_").samples] == ["a", "b"]
    assert [sample.group for sample in read(path, MULTICLASS).samples] == [None, None]


def test_lines_can_be_checked_without_their_images(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "set" / "train.jsonl", [{"image_url": "gone.png", "label": [box()]}])
    images = read_labelled(str(path), DETECTION, config(tmp_path), probe=False)
    assert len(images) == 1
    assert images.headers == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_a_choice_and_serves_a_task(name: str) -> None:
    metadata = DataConfig.__dataclass_fields__["format"].metadata
    assert name in metadata["key"].choices
    assert reader(name).TASKS
    assert reader(name).TASKS.issubset(TASKS)


def test_format_that_does_not_serve_the_task(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "cat" / "0.png")
    with pytest.raises(ConfigError, match="the format folder has no labels for task=image_object_detection"):
        read(tmp_path / "set", DETECTION)


def test_unrecognised_path(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"not recognised as any of jsonl, .*data\.format=NAME"):
        read(tmp_path / "set", MULTICLASS)


def test_folder_for_each_class_also_nested(tmp_path: Path) -> None:
    for name in ("cat/0.png", "cat/deep/0.PNG", "dog/0.png"):
        picture(tmp_path / "set" / name)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / ".hidden").mkdir()
    assert names(read(tmp_path / "set", MULTICLASS)) == [["cat"], ["cat"], ["dog"]]


def test_folder_faults(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "cat" / "0.png")
    (tmp_path / "set" / "dog").mkdir()
    with pytest.raises(DataError, match=r"set/dog: no image in it"):
        read(tmp_path / "set", MULTICLASS)
    picture(tmp_path / "set" / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png: an image outside the folders of the classes"):
        read(tmp_path / "set", MULTICLASS)
    expected = {"image without class": 1, "empty class folder": 1}
    assert read(tmp_path / "set", MULTICLASS, ignore_data_errors=True).dropped == expected


def csv_file(folder: Path, text: str, name: str = "labels.csv") -> Path:
    pictures(folder, 3)
    path = folder / name
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_csv_of_one_label(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "set", "Filename,Label,scene\n0.png,ripe apple,a\n\n1.png,pear,b\n")
    images = read(path, MULTICLASS, group_by="scene")
    assert names(images) == [["ripe apple"], ["pear"]]
    assert [(sample.line, sample.group) for sample in images.samples] == [(2, "a"), (4, "b")]


def test_csv_of_several_labels(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "set", "image_url,labels\n0.png,apple pear\n1.png,\n2.png,pear\n")
    assert names(read(path, MULTILABEL)) == [["apple", "pear"], [], ["pear"]]


def test_tab_separated_values(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "set", "image\tlabel\n0.png\tone, two\n", "labels.tsv")
    assert names(read(path, MULTICLASS)) == [["one, two"]]


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("picture,label\n0.png,cat\n", MULTICLASS, r":1: the header needs one column called image_url"),
        ("image,label,class\n0.png,cat,dog\n", MULTICLASS, r"\['label', 'class'\] all look like it"),
        ("image,label\n0.png,cat,dog\n", MULTICLASS, r"labels.csv:2: 3 cells, but the header has 2"),
        ("image,label\n0.png,\n", MULTICLASS, r"labels.csv:2: the label is empty"),
        ("image,label\n0.png,cat;dog\n", MULTILABEL, r"labels.csv:2: the labels 'cat;dog' are separated by ';'"),
        ("image,labels\n0.png,cat dog\n", MULTICLASS, r"labels.csv:2: the column of labels holds several: 'cat dog'"),
        ("image,label\n,cat\n", MULTICLASS, r"labels.csv:2: the image name is ''"),
        ("", MULTICLASS, r":1: the header needs one column"),
    ],
)
def test_csv_faults(tmp_path: Path, text: str, task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(csv_file(tmp_path / "set", text), task)


def test_csv_without_the_group_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.group_by=scene, but the columns are"):
        read(csv_file(tmp_path / "set", "image,label\n0.png,cat\n"), MULTICLASS, group_by="scene")


def table(folder: Path, *transformations: Any, paths: Any = None, reading: Any = None) -> Path:
    """An MLTable of two files with four and two lines."""
    for number, label in enumerate("aabbcc"):
        picture(folder / "lines" / f"{number}.png")
        with (folder / "lines" / f"part{number // 4}.jsonl").open("a") as file:
            file.write(json.dumps({"image_url": f"{number}.png", "label": label, "scene": number // 2}) + "\n")
    paths = paths or [{"file": "./lines/part0.jsonl"}, {"file": "lines/part1.jsonl"}]
    steps = [{"read_json_lines": reading or {}}, *transformations]
    content = {"type": "mltable", "paths": paths, "transformations": steps}
    (folder / "MLTable").write_text(json.dumps(content))
    return folder


STREAM = {"convert_column_types": [{"columns": "image_url", "column_type": "stream_info"}]}


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ([STREAM], "aabbcc"),
        ([{"take": 3}], "aab"),
        ([{"skip": 2}, {"take": {"count": 2}}], "bb"),
        ([{"take": 2}, {"skip": 1}], "a"),
        ([{"keep_columns": ["image_url", "label"]}], "aabbcc"),
        ([{"drop_columns": "scene"}], "aabbcc"),
        ([{"take_random_sample": {"probability": 1.0, "seed": 3}}], "aabbcc"),
    ],
)
def test_table_transformations(tmp_path: Path, steps: list[Any], labels: str) -> None:
    images = read(table(tmp_path / "set", *steps), MULTICLASS)
    assert "".join(name for (name,) in names(images)) == labels


@pytest.mark.parametrize("paths", [[{"folder": "./lines"}], [{"folder": "."}], [{"pattern": "./lines/*.jsonl"}]])
def test_table_of_a_folder_or_a_pattern(tmp_path: Path, paths: list[Any]) -> None:
    assert len(read(table(tmp_path / "set", paths=paths), MULTICLASS)) == 6


def test_table_sample_is_seeded(tmp_path: Path) -> None:
    step = {"take_random_sample": {"probability": 0.5, "seed": 7}}
    folder = table(tmp_path / "set", step)
    first, second = (read(folder, MULTICLASS) for _ in range(2))
    assert [s.image for s in first.samples] == [s.image for s in second.samples]
    assert 0 < len(first) < 6


def test_table_columns_that_are_dropped_cannot_group(tmp_path: Path) -> None:
    assert read(table(tmp_path / "a"), MULTICLASS, group_by="scene").samples[5].group == "2"
    with pytest.raises(DataError, match="no group: 'scene' is None"):
        read(table(tmp_path / "b", {"drop_columns": ["scene"]}), MULTICLASS, group_by="scene")
    images = read(table(tmp_path / "c", reading={"include_path_column": True}), MULTICLASS, group_by="Path")
    assert len({sample.group for sample in images.samples}) == 2


def test_table_says_what_happens_to_invalid_lines(tmp_path: Path) -> None:
    for name, invalid in (("a", "error"), ("b", "drop")):
        folder = table(tmp_path / name, reading={"invalid_lines": invalid, "encoding": "utf8"})
        (folder / "lines" / "part0.jsonl").write_text('{"image_url": "0.png", "label": "a"},\n')
    with pytest.raises(DataError, match=r"part0\.jsonl:1: a trailing comma"):
        read(tmp_path / "a", MULTICLASS)
    images = read(tmp_path / "b", MULTICLASS)
    assert names(images) == [["c"], ["c"]]
    assert images.dropped == {"not JSON": 1}


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([{"filter": "col('label') == 'a'"}], "the transformation filter is not supported"),
        ([{"keep_columns": ["image_url"]}], "keep_columns takes label away"),
        ([{"drop_columns": ["image_url"]}], "drop_columns takes image_url away"),
        ([{"take": -1}], "take needs a number of rows, not -1"),
        ([{"take_random_sample": {"probability": 2}}], "the probability 2"),
        ([{"convert_column_types": [{"columns": "image_url", "column_type": "int"}]}], "makes image_url 'int'"),
        ([{"convert_column_types": [{"columns": ["label"], "column_type": "int"}]}], "makes label 'int'"),
    ],
)
def test_table_faults(tmp_path: Path, steps: list[Any], text: str) -> None:
    with pytest.raises(VisionError, match="MLTable: ") as caught:
        read(table(tmp_path / "set", *steps), MULTICLASS)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("paths: [", "not YAML"),
        ("type: mltable", "no list 'paths'"),
        ("paths: [{file: a.jsonl}]", "the first of the transformations is nothing, not read_json_lines"),
        ("paths: [{file: a.csv}]\ntransformations: [read_delimited]", "is read_delimited, not read_json_lines"),
        ("paths: [{file: a}]\ntransformations: [{read_json_lines: {encoding: klingon}}]", "encoding klingon"),
        ("paths: [{file: a}]\ntransformations: [{read_json_lines: {invalid_lines: keep}}]", "invalid_lines is 'keep'"),
        ("paths: [a.jsonl]\ntransformations: [read_json_lines]", "the path 'a.jsonl'"),
        ("paths: [{pattern: '*.nothing'}]\ntransformations: [read_json_lines]", "holds no file"),
    ],
)
def test_table_file_faults(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "MLTable").write_text(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "set", MULTICLASS)
    assert text in str(caught.value)


def test_samples_can_be_taken_to_pixels(tmp_path: Path) -> None:
    images = read(write_labels(tmp_path / "set", [[box()]]), DETECTION)
    header = images.headers[0]
    np.testing.assert_allclose(
        images.samples[0].target.placed(Place(0, 0, header.width, header.height)).boxes, [[2, 2, 10, 6]]
    )
