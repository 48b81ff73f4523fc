"""COCO, Pascal VOC, YOLO and mask pictures: pixels become shares of the picture's own size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from label_files import DETECTION, MULTICLASS, MULTILABEL, SEGMENTATION, names, picture, pictures, read

from lightning_automl_vision.data import rle
from lightning_automl_vision.errors import ConfigError, DataError


def square(width: int = 20, height: int = 10, left: int = 2, top: int = 1, side: int = 4) -> Any:
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def counts(mask: Any) -> list[int]:
    """Runs of zeros and ones in turn, column by column."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def coco(folder: Path, annotations: list[dict[str, Any]], images: int = 2, **image: Any) -> Path:
    size = {"width": 20, "height": 10, **image}
    document = {
        "images": [
            {"id": 7 + number, "file_name": name, **size} for number, name in enumerate(pictures(folder, images))
        ],
        "annotations": [{"id": number, "image_id": 7, "category_id": 1, **a} for number, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return folder / "labels.json"


def test_coco_boxes_crowds_and_negative_images(tmp_path: Path) -> None:
    path = coco(tmp_path / "set", [{"bbox": [2, 1, 4, 5]}, {"bbox": [0, 0, 20, 10], "category_id": 3, "iscrowd": 1}])
    images = read(path, DETECTION)
    target = images.samples[0].target
    np.testing.assert_allclose(target.boxes, [[0.1, 0.1, 0.3, 0.6], [0, 0, 1, 1]])
    assert target.crowd.tolist() == [False, True]
    assert names(images) == [["cat", "dog"], []]
    assert len(read(path.parent, DETECTION)) == 2


def test_coco_boxes_that_are_shares_already(tmp_path: Path) -> None:
    path = coco(tmp_path / "set", [{"bbox": [0.1, 0.1, 0.5, 0.5], "segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]]}])
    np.testing.assert_allclose(read(path, DETECTION).samples[0].target.boxes, [[0.1, 0.1, 0.6, 0.6]])
    np.testing.assert_allclose(read(path, SEGMENTATION).samples[0].target.boxes, [[0.1, 0.1, 0.6, 0.6]])
    mask = {"size": [10, 20], "counts": counts(square())}
    path = coco(tmp_path / "set", [{"bbox": [0.1, 0.1, 0.2, 0.4], "segmentation": mask}])
    np.testing.assert_allclose(read(path, SEGMENTATION).samples[0].target.boxes, [[0.1, 0.1, 0.3, 0.5]])


def test_coco_one_small_box_does_not_make_pixels_shares(tmp_path: Path) -> None:
    path = coco(tmp_path / "set", [{"bbox": [0, 0, 1, 1]}, {"bbox": [2, 1, 4, 5]}])
    np.testing.assert_allclose(read(path, DETECTION).samples[0].target.boxes[0], [0, 0, 0.05, 0.1])


def test_coco_polygons(tmp_path: Path) -> None:
    path = coco(tmp_path / "set", [{"bbox": [2, 1, 4, 4], "segmentation": [[2, 1, 6, 1, 6, 5], [8, 1, 9, 1, 9, 5]]}])
    target = read(path, SEGMENTATION).samples[0].target
    np.testing.assert_allclose(target.polygons[0][0], [[0.1, 0.1], [0.3, 0.1], [0.3, 0.5]])
    np.testing.assert_allclose(target.boxes, [[0.1, 0.1, 0.45, 0.5]])


@pytest.mark.parametrize("compressed", [False, True])
def test_coco_run_lengths(tmp_path: Path, compressed: bool) -> None:
    runs = counts(square())
    encoded = {"size": [10, 20], "counts": rle.compress(runs) if compressed else runs}
    path = coco(tmp_path / "set", [{"bbox": [2, 1, 4, 4], "segmentation": encoded, "iscrowd": 1}])
    target = read(path, SEGMENTATION).samples[0].target
    np.testing.assert_allclose(target.boxes, [[0.1, 0.1, 0.3, 0.5]])
    assert target.crowd.tolist() == [True]


def test_coco_size_in_the_file_is_not_believed_but_pointed_out(tmp_path: Path) -> None:
    images = read(coco(tmp_path / "set", [{"bbox": [2, 1, 4, 5]}], width=40, height=40), DETECTION)
    np.testing.assert_allclose(images.samples[0].target.boxes, [[0.1, 0.1, 0.3, 0.6]])
    assert any("another size than the label file says" in note for note in images.notes)


COCO_FAULTS = [
    ({"bbox": [2, 1, 0, 5]}, DETECTION, "annotation 1: the box [2, 1, 2, 6] of 'cat' has no area"),
    ({"bbox": [2, 1, 30, 5]}, DETECTION, "annotation 1: the box of 'cat' leaves the picture's 20x10 pixels: x=32"),
    ({"bbox": [2, 1, -1, 5]}, DETECTION, "annotation 1: the box [2, 1, 1, 6] of 'cat' is reversed"),
    ({"bbox": [2, 1]}, DETECTION, "annotation 1: bbox=[2, 1] is not [x, y, width, height]"),
    ({}, DETECTION, "annotation 1: bbox=None"),
    ({"bbox": [2, 1, 4, 5], "category_id": 2}, DETECTION, "annotation 1: category_id=2 is none of the categories"),
    ({"bbox": [2, 1, 4, 5], "image_id": 99}, DETECTION, "annotation 1: image_id=99 is none of the images"),
    ({"segmentation": []}, SEGMENTATION, "annotation 1: segmentation=[] is neither"),
    ({"segmentation": [[2, 1, 6, 1]]}, SEGMENTATION, "annotation 1: a polygon of 2 points"),
    ({"segmentation": {"size": [10, 20], "counts": [3]}}, SEGMENTATION, "counts add up to 3, not to 20x10=200"),
    ({"segmentation": {"size": [10, 20], "counts": [200]}}, SEGMENTATION, "the run-length mask is empty"),
    ({"segmentation": {"size": [10], "counts": [10]}}, SEGMENTATION, "its size is [10]"),
    ({"segmentation": {"size": [10, 20], "counts": "o"}}, SEGMENTATION, "end in the middle of a number"),
    ({"segmentation": {"size": [10, 20], "counts": "é"}}, SEGMENTATION, "no part of the encoding"),
    ({"segmentation": {"size": [10, 20]}}, SEGMENTATION, "neither a text nor a list"),
]


@pytest.mark.parametrize(("annotation", "task", "text"), COCO_FAULTS)
def test_coco_faults_name_the_annotation(tmp_path: Path, annotation: dict[str, Any], task: str, text: str) -> None:
    good = {"bbox": [2, 1, 4, 5], "segmentation": [[2, 1, 6, 1, 6, 5]]}
    path = coco(tmp_path / "set", [good, annotation])
    with pytest.raises(DataError) as caught:
        read(path, task)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{path}: annotation 1: ")
    images = read(path, task, ignore_data_errors=True)
    assert names(images) == [["cat"], []]
    assert sum(images.dropped.values()) == 1


def test_coco_mask_of_another_size_than_its_picture(tmp_path: Path) -> None:
    mask = square(width=30)
    path = coco(tmp_path / "set", [{"bbox": [2, 1, 4, 4], "segmentation": {"size": [10, 30], "counts": counts(mask)}}])
    with pytest.raises(DataError, match=r"the mask has 30x10 pixels, its picture .*0\.png 20x10"):
        read(path, SEGMENTATION)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", r"labels\.json:1: not JSON"),
        ("[]", "a JSON list, not a COCO object"),
        ('{"images": [], "annotations": []}', "no list of objects 'categories'"),
        ('{"images": [{}], "annotations": [], "categories": []}', "number 1 of 'images' has no id"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}', "the id 1 occurs twice"),
    ],
)
def test_coco_document_faults(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "labels.json").write_text(content)
    with pytest.raises(DataError, match=text):
        read(tmp_path / "set" / "labels.json", DETECTION, format="coco")


def test_coco_does_not_classify(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the format coco has no labels for task=image_classification,"):
        read(coco(tmp_path / "set", []), MULTICLASS)


def voc(
    folder: Path, name: str, objects: list[tuple[str, tuple[int, ...], int]], size: tuple[int, int] = (20, 10)
) -> Path:
    picture(folder / "JPEGImages" / f"{name}.png")
    listed = "\n".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult>\n<bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box, difficult in objects
    )
    claimed = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation>\n<filename>{name}.png</filename>{claimed}\n{listed}\n</annotation>")
    return path


@pytest.fixture
def voc_set(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    voc(folder, "a", [("dog", (2, 1, 6, 5), 0), ("cat", (10, 1, 20, 10), 1), ("dog", (0, 0, 2, 2), 0)])
    voc(folder, "b", [("cat", (2, 1, 6, 5), 0)])
    voc(folder, "c", [], size=(0, 0))
    return folder


def test_voc_boxes_and_difficult_objects(voc_set: Path) -> None:
    images = read(voc_set, DETECTION)
    assert names(images) == [["dog", "cat", "dog"], ["cat"], []]
    target = images.samples[0].target
    np.testing.assert_allclose(target.boxes, [[0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 1, 1], [0, 0, 0.1, 0.2]])
    assert target.crowd.tolist() == [False, True, False]
    assert not images.notes


def test_voc_classes_of_an_image(voc_set: Path) -> None:
    assert names(read(voc_set, MULTILABEL)) == [["cat", "dog"], ["cat"], []]


def test_voc_list_of_a_split_single_file_and_plain_folder(voc_set: Path) -> None:
    (voc_set / "ImageSets" / "Main").mkdir(parents=True)
    (voc_set / "ImageSets" / "Main" / "train.txt").write_text("b\nc -1\n\n")
    assert names(read(voc_set / "ImageSets" / "Main" / "train.txt", DETECTION)) == [["cat"], []]
    assert names(read(voc_set / "Annotations" / "b.xml", DETECTION)) == [["cat"]]
    assert len(read(voc_set / "Annotations", DETECTION)) == 3
    (voc_set / "ImageSets" / "Main" / "train.txt").write_text("b\ngone\n")
    with pytest.raises(DataError, match=r"train\.txt:2: there is no .*gone\.xml"):
        read(voc_set / "ImageSets" / "Main" / "train.txt", DETECTION)


def test_voc_images_in_a_folder_of_their_own(voc_set: Path, tmp_path: Path) -> None:
    (voc_set / "JPEGImages").rename(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"set data\.images where all of them lie elsewhere"):
        read(voc_set, DETECTION)
    assert len(read(voc_set, DETECTION, images=str(tmp_path / "pictures"))) == 3


def test_voc_fault_names_the_line_of_the_object(tmp_path: Path) -> None:
    path = voc(tmp_path / "set", "a", [("dog", (2, 1, 6, 5), 0), ("dog", (4, 4, 4, 4), 0)])
    with pytest.raises(DataError) as caught:
        read(path.parent, DETECTION)
    assert str(caught.value).startswith(f"{path}:5: the box [4, 4, 4, 4] of 'dog' has no area")
    images = read(path.parent, DETECTION, ignore_data_errors=True)
    assert (names(images), images.dropped) == ([["dog"]], {"box without area": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><filename>a.png</filename>\n<object>", "not XML at line 2"),
        ("<annotation></annotation>", "no <filename>"),
        ("<annotation><filename>a.png</filename><object><name>x</name></object></annotation>", "no topX"),
        ("<annotation><filename>../../a.png</filename></annotation>", "leads out of"),
    ],
)
def test_voc_file_faults(tmp_path: Path, text: str, message: str) -> None:
    path = voc(tmp_path / "set", "a", [])
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(path.parent, DETECTION)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def instances(folder: Path, values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "a.png"), values)


def test_voc_mask_pictures(tmp_path: Path) -> None:
    path = voc(tmp_path / "set", "a", [("dog", (0, 0, 1, 1), 0), ("cat", (0, 0, 1, 1), 1)])
    values = square(left=2) + 2 * square(left=10)
    values[0] = 255
    instances(tmp_path / "set" / "SegmentationObject", values)
    images = read(path.parent.parent, SEGMENTATION)
    assert names(images) == [["dog", "cat"]]
    np.testing.assert_allclose(images.samples[0].target.boxes, [[0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 0.7, 0.5]])
    assert images.samples[0].target.crowd.tolist() == [False, True]


def test_voc_mask_faults(tmp_path: Path) -> None:
    path = voc(tmp_path / "set", "a", [("dog", (0, 0, 1, 1), 0), ("cat", (0, 0, 1, 1), 1)])
    with pytest.raises(DataError, match=r"a\.xml: no mask picture a\.png in SegmentationObject"):
        read(path.parent, SEGMENTATION)
    instances(tmp_path / "set" / "SegmentationObject", square())
    with pytest.raises(DataError, match=r"2 objects, but the mask has the values \[1\]"):
        read(path.parent, SEGMENTATION)
    instances(tmp_path / "set" / "SegmentationObject", square(width=30) + 2 * square(width=30, left=10))
    with pytest.raises(DataError, match="the mask has 30x10 pixels, its picture"):
        read(path.parent, SEGMENTATION)


def yolo(folder: Path, texts: dict[str, str | None], where: str = "") -> Path:
    for name, text in texts.items():
        picture(folder / "images" / where / f"{name}.png")
        (folder / "labels" / where).mkdir(parents=True, exist_ok=True)
        if text is not None:
            (folder / "labels" / where / f"{name}.txt").write_text(text)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


TEXTS = {"a": "1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.2 0.2\n", "b": "", "c": None}


def test_yolo_boxes_and_pictures_without_objects(tmp_path: Path) -> None:
    images = read(yolo(tmp_path / "set", TEXTS), DETECTION)
    assert names(images) == [["dog", "cat"], [], []]
    np.testing.assert_allclose(images.samples[0].target.boxes, [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.2, 0.2]], atol=1e-12)
    assert images.notes == {"picture without a label file, read as one without objects": 1}


def test_yolo_polygons(tmp_path: Path) -> None:
    path = yolo(tmp_path / "set", {"a": "1 0.1 0.1 0.5 0.1 0.5 0.5\n"})
    assert read(path, SEGMENTATION).samples[0].target.boxes.tolist() == [[0.1, 0.1, 0.5, 0.5]]


def test_yolo_layouts(tmp_path: Path) -> None:
    split = yolo(tmp_path / "split", TEXTS, "train")
    for folder in (split / "images" / "train", split / "labels" / "train", split):
        assert len(read(folder, DETECTION)) == 3
    flat = tmp_path / "flat"
    pictures(flat, 1)
    (flat / "0.txt").write_text("0 0.5 0.5 0.2 0.4")
    (flat / "animals.names").write_text("cat\n")
    assert names(read(flat, DETECTION)) == [["cat"]]
    (flat / "0.png").rename(picture(tmp_path / "elsewhere" / "0.png"))
    assert names(read(flat, DETECTION, images=str(tmp_path / "elsewhere"))) == [["cat"]]


@pytest.mark.parametrize("listed", ["[cat, dog]", "{0: cat, 1: dog}"])
def test_yolo_data_file_names_classes_and_splits(tmp_path: Path, listed: str) -> None:
    folder = yolo(tmp_path / "set", TEXTS, "train")
    yolo(tmp_path / "set", {"d": TEXTS["a"]}, "val")
    (folder / "classes.txt").unlink()
    data = folder / "data.yaml"
    data.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {listed}\n")
    assert names(read(data, DETECTION)) == [["dog", "cat"], [], []]
    assert len(read(folder / "images" / "val", DETECTION)) == 1
    data.write_text(f"train: ../images/train\nnames: {listed}\n")
    assert len(read(data, DETECTION)) == 3
    data.write_text(f"train: gone\nnames: {listed}\n")
    with pytest.raises(DataError, match="train='gone' is no folder"):
        read(data, DETECTION)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2 0.5 0.5 0.1 0.1", "class number 2, but only 2 classes are named"),
        ("cat 0.5 0.5 0.1 0.1", "the class number is 'cat'"),
        ("0 0.5 0.5 0.1", "3 numbers behind the class"),
        ("0 0.5 0.5 0.1 x", "could not convert string to float"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        ("0 0.95 0.5 0.2 0.1", "x=1.05 is too large"),
        ("0 nan 0.5 0.2 0.1", "topX=nan is not a finite number"),
    ],
)
def test_yolo_faults_name_file_and_line(tmp_path: Path, line: str, text: str) -> None:
    folder = yolo(tmp_path / "set", {"a": f"1 0.5 0.5 0.2 0.4\n\n{line}\n"})
    with pytest.raises(DataError) as caught:
        read(folder, DETECTION)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{folder}/labels/a.txt:3: ")
    assert names(read(folder, DETECTION, ignore_data_errors=True)) == [["dog"]]


def test_yolo_label_without_a_picture(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "set", TEXTS)
    (folder / "labels" / "z.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match=r"labels/z\.txt: no picture z\.\* in"):
        read(folder, DETECTION)
    assert read(folder, DETECTION, ignore_data_errors=True).dropped == {"annotation without image": 1}


def test_yolo_without_class_names(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "set", TEXTS)
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no file names the classes .* Write classes\.txt"):
        read(folder, DETECTION, format="yolo")


def masks(folder: Path, name: str, values: dict[str, Any]) -> None:
    picture(folder / name / "images" / f"{name}.png")
    for mask, value in values.items():
        (folder / name / "masks" / mask).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / "masks" / mask), value * 255)


def test_one_mask_picture_for_each_object(tmp_path: Path) -> None:
    masks(tmp_path / "set", "a", {"0.png": square(), "1.png": square(left=10)})
    masks(tmp_path / "set", "b", {"0.png": square()})
    images = read(tmp_path / "set", SEGMENTATION, class_name="nucleus")
    assert names(images) == [["nucleus"] * 2, ["nucleus"]]
    np.testing.assert_allclose(images.samples[0].target.boxes, [[0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 0.7, 0.5]])
    boxes = read(tmp_path / "set", DETECTION)
    np.testing.assert_allclose(boxes.samples[0].target.boxes, images.samples[0].target.boxes)
    assert boxes.classes == ("object",)


def test_class_of_a_mask_may_be_its_folder(tmp_path: Path) -> None:
    masks(tmp_path / "set", "a", {"cell/0.png": square(), "debris/0.png": square(left=10)})
    assert names(read(tmp_path / "set", SEGMENTATION)) == [["cell", "debris"]]


def test_masks_with_images_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "set" / "a" / "mask_0.png"), square() * 255)
    with pytest.raises(DataError, match=r"set/a: no single picture of it in .*set data\.images"):
        read(tmp_path / "set", SEGMENTATION)
    picture(tmp_path / "pictures" / "a.png")
    assert names(read(tmp_path / "set", SEGMENTATION, images=str(tmp_path / "pictures"))) == [["object"]]


def test_mask_faults(tmp_path: Path) -> None:
    masks(tmp_path / "set", "a", {"0.png": square(), "1.png": square() * 0})
    with pytest.raises(DataError, match=r"1\.png: the mask is empty"):
        read(tmp_path / "set", SEGMENTATION)
    masks(tmp_path / "set", "a", {"1.png": square(width=30)})
    with pytest.raises(DataError, match=r"1\.png: the mask has 30x10 pixels, the others of its image 20x10"):
        read(tmp_path / "set", SEGMENTATION)
    (tmp_path / "set" / "a" / "masks" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png: the mask cannot be read"):
        read(tmp_path / "set", SEGMENTATION)
    assert names(read(tmp_path / "set", SEGMENTATION, ignore_data_errors=True)) == [["object"]]
