"""What is converted reads as what was read, whatever the task and the form it came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import (
    DETECTION,
    MULTICLASS,
    MULTILABEL,
    SEGMENTATION,
    box,
    config,
    picture,
    polygon,
    write_labels,
    write_lines,
)

from lightning_automl_vision.data.labelled import LabelledImages, read_labelled
from lightning_automl_vision.errors import ConfigError, DataError, StorageError
from lightning_automl_vision.jobs.convert import convert
from lightning_automl_vision.samples import Boxes, Masks

NAMES = st.sampled_from(["cat", "dog", "Bär", 'a "b"', "line\nbreak", "日本"])
SPANS = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)


def boxes() -> st.SearchStrategy[Any]:
    return st.builds(
        lambda name, x, y, crowd: box(name, x[0], y[0], x[1], y[1], isCrowd=crowd),
        NAMES,
        SPANS,
        SPANS,
        st.sampled_from([0, 1, True, "false"]),
    )


def triangles() -> st.SearchStrategy[Any]:
    """Parts with an area that does not vanish in floating point."""
    inside = st.floats(0.01, 0.4)
    part = st.builds(lambda x, y, w, h: [x, y, x + w, y, x + w, y + h], *([inside] * 4))
    return st.builds(
        lambda name, parts, crowd: polygon(*parts, label=name, isCrowd=crowd),
        NAMES,
        st.lists(part, min_size=1, max_size=3),
        st.booleans(),
    )


LABELS = {
    MULTICLASS: NAMES,
    MULTILABEL: st.lists(NAMES, max_size=4, unique=True),
    DETECTION: st.lists(boxes(), max_size=5),
    SEGMENTATION: st.lists(triangles(), max_size=4),
}


def equal(first: LabelledImages[Any], second: LabelledImages[Any]) -> None:
    assert first.classes == second.classes
    assert list(first.headers) == list(second.headers)
    for one, other in zip(first.samples, second.samples, strict=True):
        assert os.path.realpath(one.image) == os.path.realpath(other.image)
        assert (type(one.target), one.group) == (type(other.target), other.group)
        assert one.target.labels.tolist() == other.target.labels.tolist()
        if isinstance(one.target, Boxes):
            assert one.target.boxes.tolist() == other.target.boxes.tolist()
            assert one.target.crowd.tolist() == other.target.crowd.tolist()
        if isinstance(one.target, Masks):
            parts = [[[part.tolist() for part in parts] for parts in t.polygons] for t in (one.target, other.target)]
            assert parts[0] == parts[1]


@pytest.mark.parametrize("task", LABELS)
def test_converted_labels_read_the_same(task: str) -> None:
    @given(st.lists(LABELS[task], min_size=1, max_size=5))
    @settings(max_examples=25, deadline=None)
    def check(labels: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = write_labels(Path(folder) / "set", labels)
            output = source.with_name("converted.jsonl")
            assert convert(task, str(source), str(output), config(Path(folder))) == len(labels)
            equal(*(read_labelled(str(path), task, config(Path(folder))) for path in (source, output)))

    check()


def test_written_lines_have_the_documented_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_labels(tmp_path / "set", [[box(isCrowd="true")], []])
    output = tmp_path / "set" / "converted.jsonl"
    convert(DETECTION, str(source), str(output), config(tmp_path))
    first, second = [json.loads(line) for line in output.read_text().splitlines()]
    assert first == {
        "image_url": "0.png",
        "image_details": {"format": "png", "width": "20px", "height": "10px"},
        "label": [{"label": "cat", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.6, "isCrowd": 1}],
    }
    assert second["label"] == []
    assert capsys.readouterr().out == f"{output}: 2 images, 1 objects, 1 classes (cat).\n"


def test_summary_counts_what_was_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_labels(tmp_path / "set", ["cat", "", 4])
    convert(MULTICLASS, str(source), str(tmp_path / "a.jsonl"), config(tmp_path, ignore_data_errors=True))
    expected = "1 images, 1 labels, 1 classes (cat); dropped: empty label 1, label of a wrong type 1."
    assert expected in capsys.readouterr().out


def test_images_below_the_output_are_relative_others_absolute(tmp_path: Path) -> None:
    source = write_labels(tmp_path / "set", ["cat"])
    for output, url in (("above.jsonl", "set/0.png"), ("beside/a.jsonl", str(tmp_path / "set" / "0.png"))):
        convert(MULTICLASS, str(source), str(tmp_path / output), config(tmp_path))
        assert json.loads((tmp_path / output).read_text())["image_url"] == url
        assert len(read_labelled(str(tmp_path / output), MULTICLASS, config(tmp_path))) == 1


def test_format_is_that_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    for kind in ("jpg", "bmp", "tif", "webp"):
        image = picture(tmp_path / kind / f"0.{kind}").rename(tmp_path / kind / "0.png")
        source = write_lines(tmp_path / kind / "a.jsonl", [{"image_url": image.name, "label": "cat"}])
        convert(MULTICLASS, str(source), str(tmp_path / kind / "b.jsonl"), config(tmp_path))
        assert json.loads((tmp_path / kind / "b.jsonl").read_text())["image_details"]["format"] == kind


def test_group_is_written_under_its_key(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "0.png")
    line = {"image_url": "0.png", "label": "cat", "scene": "a"}
    source = write_lines(tmp_path / "set" / "a.jsonl", [line])
    output = tmp_path / "set" / "b.jsonl"
    keys = config(tmp_path, group_by="scene")
    convert(MULTICLASS, str(source), str(output), keys)
    equal(*(read_labelled(str(path), MULTICLASS, keys) for path in (source, output)))


def test_folders_become_lines(tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/0.png"):
        picture(tmp_path / "set" / name)
    output = tmp_path / "set" / "train.jsonl"
    assert convert(MULTICLASS, str(tmp_path / "set"), str(output), config(tmp_path)) == 2
    equal(*(read_labelled(str(path), MULTICLASS, config(tmp_path)) for path in (tmp_path / "set", output)))


def test_fault_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out" / "a.jsonl"
    write_lines(output, ["as it was"])
    source = write_labels(tmp_path / "set", ["cat", ""])
    with pytest.raises(DataError, match="the label is empty"):
        convert(MULTICLASS, str(source), str(output), config(tmp_path))
    assert output.read_text() == "as it was\n"
    assert os.listdir(output.parent) == ["a.jsonl"]


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    source = write_labels(tmp_path / "set", ["cat"])
    with pytest.raises(ConfigError, match=r"output=.*set is a folder\. Name the file to write"):
        convert(MULTICLASS, str(source), str(tmp_path / "set"), config(tmp_path))
    with pytest.raises(ConfigError, match="is the input itself"):
        convert(MULTICLASS, str(source), str(source), config(tmp_path))
    with pytest.raises(StorageError, match=r"a\.jsonl cannot be written: .*Name a folder that can be: output=PATH"):
        convert(MULTICLASS, str(source), str(source / "below" / "a.jsonl"), config(tmp_path))


def test_output_may_be_read_by_others_as_any_new_file(tmp_path: Path) -> None:
    source = write_labels(tmp_path / "set", ["cat"])
    convert(MULTICLASS, str(source), str(tmp_path / "a.jsonl"), config(tmp_path))
    assert (tmp_path / "a.jsonl").stat().st_mode == source.stat().st_mode


def test_verb_converts_without_torch(tmp_path: Path) -> None:
    source, output = write_labels(tmp_path / "set", [[box()]]), tmp_path / "a.jsonl"
    arguments = [f"task={DETECTION}", f"input={source}", f"output={output}", f"data.cache={tmp_path / 'cache'}"]
    program = (
        "import sys; from lightning_automl_vision.main import main; sys.argv = ['lav', 'convert', *sys.argv[1:]]\n"
        "main(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 images, 1 objects, 1 classes (cat)." in done.stdout
    assert np.isclose(json.loads(output.read_text())["label"][0]["topX"], 0.1)
