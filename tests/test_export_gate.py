"""An export that is not as good as its model, or cannot be finished, says why and leaves nothing half-written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import DETECTION, MULTICLASS, TINY, YOLO, edited, export, write_labels, write_model, write_noise
from full_disk import files_of_at_most

from lightning_automl_vision.errors import ConfigError, DataError, RequirementError, StorageError
from lightning_automl_vision.export import exporting, torchscript
from lightning_automl_vision.export.agreement import agreement
from lightning_automl_vision.export.folder import beside
from lightning_automl_vision.export.stages import NETWORK, NMS, RESIZE, TILES
from lightning_automl_vision.predictor import load
from lightning_automl_vision.samples import ScoredLabels

TILED = {"tile_grid_size": "2x2", "tile_predictions_nms_thresh": 0.25}
UNCOMPARED: dict[str, Any] = {"parity": {"images": 0}}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled model, what ONNX became of it, and pictures with labels."""
    folder = tmp_path_factory.mktemp("gate")
    write_model(folder / "model", "yolov5", DETECTION, **YOLO, tiling=TILED)
    write_labels(folder / "model", folder / "labelled")
    write_noise(folder / "noise", ((120, 160), (90, 130)))
    export(folder / "model", folder / "onnx", folder / "noise")
    return folder


def say(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps({**known, **settings}))

    return change


def forget_biases(folder: Path) -> None:
    """The last layers' of the network."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if ".24.m." in tensor.name and tensor.name.endswith("bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) - 1, tensor.name))
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("broken", "stage"),
    [
        (say(img_size=96), RESIZE),
        (forget_biases, NETWORK),
        (say(nms_iou_thresh=0.05), NMS),
        (say(tile_predictions_nms_thresh=0.01), TILES),
    ],
    ids=[RESIZE, NETWORK, NMS, TILES],
)
def test_a_stage_that_is_broken_fails_the_export_and_is_named(
    both: Path, broken: Callable[[Path], None], stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(opened: Any, format: str, options: Any, folder: Path) -> None:
        shutil.copytree(both / "onnx", folder, dirs_exist_ok=True)
        broken(folder)

    monkeypatch.setattr(exporting, "write_folder", write)
    told = rf"The stage that differs is {stage}; the worst images are \d\.png \(0\.\d+\), \d\.png \(0\.\d+\)\. It is"
    with pytest.raises(RequirementError, match=told) as refused:
        export(both / "model", tmp_path / "out", both / "noise")
    assert refused.value.exit_code == 7
    assert [file.name for file in tmp_path.iterdir()] == ["out.failed"]
    document = json.loads((tmp_path / "out.failed" / "parity.json").read_text())
    assert document["passed"] is False
    assert {row["filename"]: row["stage"] for row in document["worst"]} == {"0.png": stage, "1.png": stage}
    shares = [row["agreement"] for row in document["worst"]]
    assert shares == sorted(shares)


def test_numbers_that_are_none_agree_with_nothing() -> None:
    fine, none = (ScoredLabels(scores=np.array(scores, np.float32)) for scores in ((0.7, 0.3), (np.nan, np.nan)))
    assert agreement(fine, none, threshold=0) == 0
    assert agreement(none, fine, threshold=0) == 0


def test_a_metric_that_drops_by_what_lies_at_the_threshold_is_told_so(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(both / "model").predict([both / "noise" / "0.png"])[0]
    highest = float(found.scores.max())
    model = edited(tmp_path / "model", both / "model", box_score_thresh=highest - 1e-4)
    best = found.as_dict()["boxes"][int(found.scores.argmax())]
    labels = tmp_path / "labels" / "labels.jsonl"
    labels.parent.mkdir()
    shutil.copy(both / "noise" / "0.png", labels.parent)
    labels.write_text(json.dumps({"image_url": "0.png", "label": [{"label": best["label"], **best["box"]}]}) + "\n")

    def write(opened: Any, format: str, options: Any, folder: Path) -> None:
        shutil.copytree(both / "onnx", folder, dirs_exist_ok=True)
        say(box_score_thresh=highest + 1e-4)(folder)

    monkeypatch.setattr(exporting, "write_folder", write)
    with pytest.raises(
        RequirementError, match=r"drops from 1\.0000 to 0\.0000, .* Nothing differs but objects that score"
    ):
        export(model, tmp_path / "out", labels, parity={"tolerance": 0.0})


def test_an_export_that_has_no_answer_is_refused(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path, facts: Any) -> Any:
        def run(inputs: Any) -> Any:
            raise RuntimeError("no kernel\nfor this")

        return run

    monkeypatch.setattr(torchscript, "opened", opened)
    with pytest.raises(RequirementError, match=r"cannot be asked about .*0\.png: no kernel for this\. Choose another"):
        export(both / "model", tmp_path / "out", both / "noise", format="torchscript")
    assert not list(tmp_path.iterdir())


def test_what_an_exporter_cannot_follow_is_one_line(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def trace(*_: Any, **__: Any) -> None:
        raise RuntimeError("cannot\ntrace this")

    monkeypatch.setattr(torch.jit, "trace", trace)
    with pytest.raises(ConfigError, match=r"format=torchscript: yolov5 cannot be exported so: cannot trace this\."):
        export(both / "model", tmp_path / "deep" / "out", None, format="torchscript", **UNCOMPARED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "format",
    ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "torchscript", "torch_export"))],
)
def test_a_full_disk_is_told_and_nothing_is_left(format: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "timm", MULTICLASS, **TINY)
    with (
        files_of_at_most(1 << 14),
        pytest.raises(StorageError, match=r"out cannot be written: file too large.* output=PATH"),
    ):
        export(model, tmp_path / "out", None, format=format, **UNCOMPARED)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(both: Path, number: int, tmp_path: Path) -> None:
    words = ["export", str(both / "model"), "format=torchscript", "output=a/out", f"images={both / 'noise'}"]
    code = (
        "import sys, time\n"
        "from lightning_automl_vision.export import exporting\n"
        "exporting.compare = lambda *_: (print('comparing', flush=True), time.sleep(600))\n"
        "from lightning_automl_vision.main import main\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "comparing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Error: Interrupted."
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with beside(output) as held:
        abandoned = [tmp_path / f".{number}.out" for number in (1, 2)]
        others = [tmp_path / name for name in (".1.out.failed", ".notes.out", ".1.outer")]
        for folder in (*abandoned, *others):
            folder.mkdir()
            (folder / "model.onnx").touch()
        held = held.rename(tmp_path / ".3.out")  # as of another process that is at it
        with beside(output) as place:
            assert sorted(tmp_path.iterdir()) == sorted((held, place, *others))
            assert place not in abandoned
    assert sorted(tmp_path.iterdir()) == sorted((held, *others))


def test_what_a_failed_export_would_take_the_place_of_is_not_touched(both: Path, tmp_path: Path) -> None:
    (tmp_path / "out.failed").mkdir()
    (tmp_path / "out.failed" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.failed, which is not free\. Move it"):
        export(both / "model", tmp_path / "out", both / "noise")
    assert (tmp_path / "out.failed" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("onnx", "onnxruntime", "export"), ("openvino", "openvino", "openvino"), ("triton", "onnxscript", "export")],
)
def test_a_missing_package_is_told_with_its_extra(
    format: str, package: str, extra: str, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} is not installed\. .*lightning-automl-vision\[{extra}\]"):
        export(both / "model", tmp_path / "out", None, format=format, **UNCOMPARED)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_to_ask_an_export_is_told_too(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"^format=onnx: onnxruntime is not installed\. .*vision\[export\]"):
        load(both / "onnx")


@pytest.mark.parametrize("format", [None, "torchscript", "torch_export"])
def test_what_torch_alone_can_ask_says_so_where_there_is_none(
    format: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model = write_model(tmp_path / "model", "timm", MULTICLASS, **TINY)
    if format is not None:
        export(folder, tmp_path / "out", None, format=format, **UNCOMPARED)
        folder = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=rf"^{folder}.* needs torch, .*Install it, .*format=onnx or openvino"):
        load(folder)
    with pytest.raises(ConfigError, match=r"needs torch|torch is not installed"):
        export(model, tmp_path / "more", None, format=format or "onnx", **UNCOMPARED)


@pytest.mark.parametrize(
    ("images", "keys", "reason"),
    [
        ("a", UNCOMPARED, r"images=a: with parity\.images=0 nobody reads them"),
        ("nowhere", {}, r"images=nowhere: there is no such file"),
        (
            None,
            {"parity": {"images": 0, "tolerance": 0.5}},
            r"parity\.tolerance: with parity\.images=0 nothing is compared",
        ),
        (None, {"calibration_images": 3}, "calibration_images: without quantise=int8"),
        (None, {"format": "onx"}, r"format.*onx.*onnx"),
        (None, {"precision": 8}, "precision.*8.*16"),
        (None, {"quantise": "int4"}, "quantise.*int4.*int8"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(
    both: Path, images: str | None, keys: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=reason) as refused:
        export(both / "model", tmp_path / "out", None if images is None else Path(images), **keys)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_an_exported_folder_becomes_a_repository_as_it_is(both: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"precision: format=triton has no use for it, it copies"):
        export(both / "onnx", tmp_path / "out", None, format="triton", precision=16)
    with pytest.raises(ConfigError, match=r"task=image_classification: the task of .* is image_object_detection"):
        export(both / "onnx", tmp_path / "out", None, format="mlflow", task=MULTICLASS)
    assert not list(tmp_path.iterdir())


def test_the_cost_of_smaller_numbers_is_told_and_kept(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    labels, output = both / "labelled" / "labels.jsonl", tmp_path / "out"
    keys = {"quantise": "int8", "calibration_images": 3, "parity": {"images": 3, "tolerance": 1.0}}
    told = export(both / "model", output, labels, quiet=False, **keys)
    said, card = capsys.readouterr().out, (output / "README.md").read_text()
    figures = [f"{told['metric'][side]:.4f}" for side in ("torch", "exported")]
    sizes = [f"{told['bytes'][side] / 1e6:.1f}" for side in ("torch", "exported")]
    rows = {tuple(line.split()[-2:]) for line in said.splitlines() if line}
    assert {tuple(figures), tuple(sizes)} <= rows
    assert f"| mean_average_precision | {' | '.join(figures)} |" in card
    assert f"| megabytes | {' | '.join(sizes)} |" in card
    facts = json.loads((output / "model.json").read_text())["exported"]
    assert len(facts["calibrated_on"]) == 3
    assert "names the 3 pictures they were fitted to" in card
    compared = {"0.png", "2.png", "5.png"}  # spread evenly over six
    assert not {*facts["calibrated_on"]} & compared
    assert "the ranges are taken from the same ones" not in caplog.text
    export(both / "model", tmp_path / "same", labels, **{**keys, "parity": {"tolerance": 1.0}})
    assert "All 6 images" in caplog.text


def test_an_exported_folder_says_what_it_is_in_the_models_card(both: Path, tmp_path: Path) -> None:
    model = edited(tmp_path / "model", both / "model")
    (model / "README.md").write_text("# a model\n\n## Use\n\nAs always.\n")
    export(model, tmp_path / "out", None, format="torchscript", **UNCOMPARED)
    before, after = (tmp_path / "out" / "README.md").read_text().split("\n## Export\n")
    assert before == (model / "README.md").read_text()
    assert "This folder holds the network as `torchscript`, its weights in 32 bits." in after
    assert "| megabytes | " in after
    assert "Compared with nothing." in after
