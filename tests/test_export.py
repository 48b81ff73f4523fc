"""``lav export``: the same answers from another runtime, without torch, or nothing at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import DETECTION, MULTICLASS, SMALL, TINY, YOLO, edited, export, write_model, write_noise
from pictures import write_folders

from lightning_automl_vision import train
from lightning_automl_vision.errors import ConfigError, RequirementError
from lightning_automl_vision.export import exporting
from lightning_automl_vision.export.agreement import agreement
from lightning_automl_vision.export.runtime import threads
from lightning_automl_vision.predictor import Predictor, load

# Of answers whose digits differ after the fifth.
SAME = 0.998


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny classifier, beside its pictures."""
    folder = tmp_path_factory.mktemp("classifier")
    photos, others = write_folders(folder / "photos", per_class=4), write_folders(folder / "others", per_class=3)
    sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
    train(
        task=MULTICLASS,
        model={"name": "timm", **TINY, "pretrained": False},
        data={"training": str(photos), "validation": str(others)},
        training={"number_of_epochs": 1, "training_batch_size": 4, "random_seed": 3, "number_of_workers": 0, **sizes},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def classifier(run: Path) -> Path:
    """The run as ONNX, by the command line."""
    output = run.parent / "onnx"
    done = lav("export", str(run), f"output={output}", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    return output


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("yolo") / "model", "yolov5", DETECTION, **YOLO)


@pytest.fixture(scope="module")
def exported_yolo(yolo: Path) -> Path:
    noise = write_noise(yolo.parent / "noise")
    assert export(yolo, yolo.parent / "onnx", noise)["agreement"]["lowest"] > SAME
    return yolo.parent / "onnx"


def lav(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_automl_vision", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def least_agreement(first: Predictor, second: Predictor, pictures: Path, most: int | None = None) -> float:
    """Of any picture; one at a time, for torchvision's networks answer a bit otherwise in company."""
    answers = ((first.predict([place])[0], second.predict([place])[0]) for place in pictures.iterdir())
    return min(agreement(one, other, threshold=0, most=most) for one, other in answers)


def test_the_folder_is_a_model_folder_with_a_network_in_place_of_weights(run: Path, classifier: Path) -> None:
    names = {file.name for file in classifier.iterdir()}
    assert {"model.json", "settings.json", "labels.json", "model.onnx", "parity.json"} <= names
    assert "weights.safetensors" not in names
    assert (classifier / "settings.json").read_text() == (run / "model" / "settings.json").read_text()
    assert not [file for file in classifier.parent.iterdir() if file.name.startswith(".")]


def test_both_sides_were_asked_about_what_the_run_was_validated_on(run: Path, classifier: Path) -> None:
    told = json.loads((classifier / "parity.json").read_text())
    assert told["passed"] is True
    assert (told["images"], told["source"]) == (9, str(run.parent / "others"))
    known = json.loads((run / "result.json").read_text())["metrics"]["accuracy"]
    assert told["metric"] == {"name": "accuracy", "torch": known, "exported": known, "drop": 0.0}
    assert told["agreement"]["lowest"] > 0.9999
    assert told["bytes"]["exported"] == (classifier / "model.onnx").stat().st_size


def test_answers_are_those_of_torch_and_no_torch_is_imported(run: Path, classifier: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["lav", "predict", {str(classifier)!r}, "input={run.parent / "others"}", "output={tmp_path / "there"}"]
from lightning_automl_vision.main import main
main()
heavy = [name for name in ("torch", "torchvision", "timm", "lightning", "onnx") if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "there" / "predictions.jsonl").read_text().splitlines()]
    here = load(run).predict([run.parent / "others" / row["filename"] for row in rows])
    for row, answer in zip(rows, here, strict=True):
        np.testing.assert_allclose(row["probs"], answer.scores, atol=1e-5)


def test_a_classifiers_network_takes_any_number_of_pictures_of_any_size(classifier: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(classifier / "model.onnx", providers=["CPUExecutionProvider"])
    (pictures,) = session.get_inputs()
    assert (pictures.type, pictures.shape) == ("tensor(uint8)", ["batch", 3, "height", "width"])
    for shape in ((1, 3, 32, 32), (3, 3, 40, 72)):
        (logits,) = session.run(None, {"images": np.zeros(shape, np.uint8)})
        assert logits.shape == (shape[0], 3)


@pytest.mark.parametrize(
    ("format", "keys"),
    [
        ("onnx", {"precision": 16}),
        ("onnx", {"quantise": "int8", "calibration_images": 1}),
        ("torch_export", {}),
        ("torchscript", {}),
    ],
)
def test_what_is_exported_does_not_tell_where_it_was_made(tmp_path: Path, format: str, keys: dict[str, Any]) -> None:
    model, noise = write_model(tmp_path / "model", "timm", MULTICLASS, **TINY), write_noise(tmp_path / "noise")
    images = noise if "quantise" in keys else None
    export(model, tmp_path / "out", images, format=format, parity={"images": 0}, **keys)
    package = Path(exporting.__file__).parents[1]
    for name, content in contents(tmp_path / "out"):
        for place in (package, "site-packages", tmp_path):
            assert str(place).encode() not in content, f"{name} tells of {place}"


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Of every file, and of every file in an archive."""
    for file in folder.iterdir():
        yield file.name, file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


def test_an_exported_folder_is_evaluated_as_the_run_is(run: Path, classifier: Path, tmp_path: Path) -> None:
    for name, model in (("run", run), ("onnx", classifier)):
        done = lav("evaluate", str(model), f"input={run.parent / 'photos'}", f"output={tmp_path / name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    here, there = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "onnx"))
    assert there["metrics"]["accuracy"] == here["metrics"]["accuracy"]
    assert there["metrics"]["log_loss"] == pytest.approx(here["metrics"]["log_loss"], abs=1e-5)


@pytest.mark.parametrize("nms", ["outside", "inside"])
def test_yolov5_answers_alike_with_its_suppression_on_either_side(yolo: Path, tmp_path: Path, nms: str) -> None:
    noise = write_noise(tmp_path / "noise", ((64, 96), (100, 65), (20, 200)))
    told = export(yolo, tmp_path / "onnx", noise, nms=nms)
    assert told["agreement"]["lowest"] > SAME
    assert sum(map(len, load(tmp_path / "onnx").predict(sorted(noise.iterdir())))) > 10
    facts = json.loads((tmp_path / "onnx" / "model.json").read_text())["exported"]
    assert facts["outputs"] == (["guesses"] if nms == "outside" else ["boxes", "scores", "labels"])


def test_thresholds_may_be_edited_after_the_export(yolo: Path, exported_yolo: Path, tmp_path: Path) -> None:
    changes = {"box_score_thresh": 0.2, "nms_iou_thresh": 0.2, "box_detections_per_img": 9, "img_size": 96}
    pair = [load(edited(tmp_path / place.name, place, **changes)) for place in (yolo, exported_yolo)]
    noise = exported_yolo.parent / "noise"
    assert least_agreement(*pair, noise, most=9) > SAME
    assert least_agreement(pair[0], load(exported_yolo), noise) < 0.9
    assert least_agreement(load(yolo, above=0.1), load(exported_yolo, above=0.1), noise) > SAME


def test_what_is_part_of_the_network_cannot_be_edited(yolo: Path, tmp_path: Path) -> None:
    export(yolo, tmp_path / "onnx", None, nms="inside", parity={"images": 0})
    with pytest.raises(ConfigError, match=r"nms_iou_thresh=0\.2, and the exported network holds 0\.5"):
        load(edited(tmp_path / "other", tmp_path / "onnx", nms_iou_thresh=0.2))
    lower = [
        load(edited(tmp_path / name, place, box_score_thresh=0.1))
        for name, place in (("one", yolo), ("two", tmp_path / "onnx"))
    ]
    assert least_agreement(*lower, write_noise(tmp_path / "noise")) > SAME


def test_a_tiled_model_stays_tiled(yolo: Path, tmp_path: Path) -> None:
    tiled = edited(tmp_path / "tiled", yolo, tile_grid_size="2x2", tile_overlap_ratio=0.25)
    noise = write_noise(tmp_path / "noise", ((120, 160), (90, 200)))
    export(tiled, tmp_path / "onnx", noise)
    here, there = load(tiled), load(tmp_path / "onnx")
    assert there.tiling == here.tiling
    assert there.tiling.cuts
    assert least_agreement(here, there, noise) > SAME
    assert least_agreement(load(yolo), there, noise) < 0.9


def test_faster_rcnn_answers_alike_at_any_size(tmp_path: Path) -> None:
    import onnxruntime

    model = write_model(tmp_path / "model", "fasterrcnn_resnet18_fpn", DETECTION, **SMALL)
    noise = write_noise(tmp_path / "noise", ((64, 96), (130, 65), (64, 64)))
    told = export(model, tmp_path / "onnx", noise)
    assert told["agreement"]["lowest"] > SAME
    assert sum(map(len, load(model).predict(sorted(noise.iterdir())))) > 10
    assert least_agreement(load(model, above=0.5), load(tmp_path / "onnx", above=0.5), noise) > SAME
    assert not len(load(tmp_path / "onnx", above=1.0).predict([noise / "0.png"])[0])
    with pytest.raises(ConfigError, match="box_detections_per_img=200, and the exported network gives 100 at most"):
        load(edited(tmp_path / "more", tmp_path / "onnx", box_detections_per_img=200))
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    boxes, *_ = session.run(None, {"images": np.zeros((1, 3, 64, 80), np.uint8)})  # the threshold has a usual value
    assert boxes.shape[1] == 4
    few = load(edited(tmp_path / "few", tmp_path / "onnx", box_detections_per_img=2)).predict([noise / "0.png"])[0]
    assert len(few) == 2


@pytest.mark.parametrize("format", ["openvino", "torchscript"])
def test_other_runtimes_answer_alike(yolo: Path, tmp_path: Path, format: str) -> None:
    noise = write_noise(tmp_path / "noise")
    told = export(yolo, tmp_path / "there", noise, format=format)
    assert told["agreement"]["lowest"] > SAME
    assert (tmp_path / "there" / "model.json").is_file()


def test_pictures_may_be_normalised_outside(yolo: Path, exported_yolo: Path, tmp_path: Path) -> None:
    import onnxruntime

    noise = write_noise(tmp_path / "noise")
    export(yolo, tmp_path / "onnx", noise, normalise="outside")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)"
    assert least_agreement(load(exported_yolo), load(tmp_path / "onnx"), noise) > SAME


def test_weights_of_16_bits_take_half_the_room(yolo: Path, exported_yolo: Path, tmp_path: Path) -> None:
    told = export(yolo, tmp_path / "onnx", write_noise(tmp_path / "noise"), precision=16, parity={"tolerance": 0.1})
    assert told["bytes"]["exported"] < 0.55 * (exported_yolo / "model.onnx").stat().st_size
    assert 0.9 < told["agreement"]["mean"] < 1


def test_whole_numbers_of_8_bits_take_a_third_of_the_room(yolo: Path, exported_yolo: Path, tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "noise")
    told = export(yolo, tmp_path / "onnx", noise, quantise="int8", calibration_images=3, parity={"tolerance": 0.9})
    assert told["bytes"]["exported"] < 0.4 * (exported_yolo / "model.onnx").stat().st_size
    assert told["agreement"]["mean"] < 1


def test_an_export_that_is_not_as_good_is_kept_aside_and_says_where_it_differs(yolo: Path, tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "noise")
    with pytest.raises(RequirementError, match=r"answers agree by .* The stage that differs is network; .*2\.png"):
        export(yolo, tmp_path / "onnx", noise, quantise="int8", parity={"tolerance": 0.0})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["noise", "onnx.failed"]
    told = json.loads((tmp_path / "onnx.failed" / "parity.json").read_text())
    assert told["passed"] is False
    assert {row["stage"] for row in told["worst"]} == {"network"}


def test_nothing_is_left_of_an_export_that_broke(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "yolov5", DETECTION, **YOLO)
    (model / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(Exception, match="is damaged"):
        export(model, tmp_path / "onnx", None, parity={"images": 0})
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"format": "torch_export", "nms": "inside"}, r"goes by the boxes it finds\. Choose nms=outside"),
        ({"format": "torchscript", "precision": 16}, "precision=16: the format torchscript has no use for it"),
        ({"format": "torchscript", "quantise": "int8"}, "quantise=int8: the format torchscript has no use for it"),
        ({"quantise": "int8", "precision": 16}, "two ways to make a network smaller"),
        ({}, "lies in no run's folder.*images=PATH"),
    ],
)
def test_what_cannot_be_is_refused(yolo: Path, tmp_path: Path, keys: dict[str, Any], reason: str) -> None:
    more = {} if not keys or keys.get("quantise") else {"parity": {"images": 0}}
    with pytest.raises(ConfigError, match=reason):
        export(yolo, tmp_path / "there", None, **keys, **more)
    assert not list(tmp_path.iterdir())


def test_a_pair_that_cannot_work_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "fasterrcnn_resnet18_fpn", DETECTION, **SMALL)
    (model / "weights.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"torch_export: fasterrcnn_resnet18_fpn cannot be exported so: torch\.export"
    ):
        export(model, tmp_path / "there", None, format="torch_export")
    with pytest.raises(ConfigError, match="nms=inside: fasterrcnn_resnet18_fpn has no such choice"):
        export(model, tmp_path / "there", None, nms="inside")


def test_the_command_line_says_what_it_has_no_use_for(run: Path, classifier: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        ((str(run), "training.learning_rate=0.1"), "lav export has no use for it"),
        ((str(run), "data.format=folder"), "lav export reads what the run was validated on"),
        ((str(classifier),), "was exported already, as onnx"),
        ((), "checkpoint is not given"),
    ):
        done = lav("export", *arguments, f"output={tmp_path / 'there'}", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_written_to(yolo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export(yolo, tmp_path, None)


def test_an_exported_folder_cannot_be_built_again(exported_yolo: Path) -> None:
    from lightning_automl_vision.predictor import open_model

    with pytest.raises(ConfigError, match="holds an exported network"):
        open_model(exported_yolo).build()


def test_a_torn_network_is_told_in_one_line(exported_yolo: Path, tmp_path: Path) -> None:
    torn = edited(tmp_path / "torn", exported_yolo)
    (torn / "model.onnx").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"model\.onnx cannot be opened: .* Export it again\."):
        load(torn)
    (torn / "model.onnx").unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx is missing"):
        load(torn)


def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1
