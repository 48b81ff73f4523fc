"""Exported folders are predicted, judged and served where torch is not even there, and nobody else is told of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from exported import DETECTION, MULTICLASS, SEGMENTATION, SMALL, TINY, YOLO, export, write_labels, write_model

MODELS = {
    MULTICLASS: ("timm", TINY),
    DETECTION: ("yolov5", {**YOLO, "tiling": {"tile_grid_size": "2x1", "tile_overlap_ratio": 0.25}}),
    SEGMENTATION: ("maskrcnn_resnet18_fpn", SMALL),
}
# What none of it may import; whoever tries is told that it is not installed.
HEAVY = ("torch", "torchvision", "timm", "lightning", "lightning_fabric", "torchmetrics", "onnx", "openvino_telemetry")
REFUSED = """
import socket, sys

sys.path.insert(0, {tests!r})

def refuse(*asked, **others):
    with open({connections!r}, "a") as file:
        print(asked, file=file)
    raise OSError("nobody is asked")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
WITHOUT_TORCH = """
class Refusing:
    def find_spec(self, name, *more):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Refusing())
from lightning_automl_vision.main import main
for verb, source in (("predict", "pictures"), ("evaluate", "pictures/labels.jsonl")):
    sys.argv = ["lav", verb, "exported", "input=" + source, "output=" + verb, "quiet=true"]
    main()
from pathlib import Path
from lightning_automl_vision.predictor import load
from served import served
with served(lambda: load("exported")) as client:
    (answer,) = client.post("/score", content=Path("pictures/0.png").read_bytes()).json()
import json
Path("served.json").write_text(json.dumps(answer))
assert not [name for name in {heavy!r} if sys.modules.get(name) is not None]
"""


def run_alone(code: str, folder: Path, **values: object) -> Path:
    """Runs in a process with a home of its own; gives that, after nobody was asked for a connection."""
    home = folder / "home"
    home.mkdir()
    connections = folder / "connections"
    program = (REFUSED + code).format(tests=str(Path(__file__).parent), connections=str(connections), **values)
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert not connections.exists(), connections.read_text()
    return home


@pytest.mark.parametrize(
    ("task", "format"),
    [
        (MULTICLASS, "onnx"),
        (DETECTION, "openvino"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                (MULTICLASS, "openvino"),
                (DETECTION, "onnx"),
                (SEGMENTATION, "onnx"),
                (SEGMENTATION, "openvino"),
            )
        ),
    ],
)
def test_an_exported_folder_needs_no_torch_for_any_verb(task: str, format: str, tmp_path: Path) -> None:
    name, given = MODELS[task]
    model = write_model(tmp_path / "model", name, task, **given)
    labels = write_labels(model, tmp_path / "pictures")
    told = export(model, tmp_path / "exported", labels, format=format)
    run_alone(WITHOUT_TORCH, tmp_path, heavy=HEAVY)
    rows = [json.loads(line) for line in (tmp_path / "predict" / "predictions.jsonl").read_text().splitlines()]
    answers = {row.pop("filename"): row for row in rows}
    assert len(answers) == 6
    served = json.loads((tmp_path / "served.json").read_text())
    assert list(served) == list(answers["0.png"])
    key = "boxes" if "boxes" in served else "probs"
    assert len(served[key]) == len(answers["0.png"][key])
    judged = json.loads((tmp_path / "evaluate" / "result.json").read_text())
    assert judged["primary_metric"]["value"] == pytest.approx(told["metric"]["exported"], abs=1e-6)


def test_openvino_tells_nobody_of_an_export_or_an_answer(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "timm", MULTICLASS, **TINY)
    write_labels(model, tmp_path / "pictures")
    home = run_alone(
        "from lightning_automl_vision.main import main\n"
        "sys.argv = ['lav', 'export', 'model', 'format=openvino', 'output=out', 'images=pictures', 'quiet=true']\n"
        "main()\n"
        "assert 'openvino' in sys.modules",
        tmp_path,
    )
    assert not (home / "intel").exists()
