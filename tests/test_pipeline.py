"""examples/pipeline: its commands are ones that the program accepts, and it stops where a model is not good enough."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from pictures import write_folders
from served import until_true

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.predictor import load

SCRIPT = Path(__file__).parent.parent / "examples" / "pipeline" / "pipeline.py"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    spec = spec_from_file_location("pipeline", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["pipeline"] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def composed(arguments: list[str]) -> Settings:
    register()
    overrides = [word for word in rewrite(arguments) if word != "--multirun"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose(config_name="config", overrides=overrides)
    return Settings.from_config(config, tuple(overrides))


WORDS = ["training=photos", "test=held out", "require=accuracy>=0.9,log_loss<1", "task=image_classification"]


def test_every_command_is_one_that_the_program_accepts(pipeline: Any) -> None:
    asked = pipeline.asked([*WORDS, "data.encoding=latin-1", "model=resnet18", "folder=a", "serve=serve.port=0"])
    inspect, gate, export, server = map(composed, (asked.inspect(), asked.gate(), asked.export(), asked.server()))
    assert inspect.data.training == "photos"
    assert (gate.job.name, gate.checkpoint) == ("evaluate", "a/sweep/best")
    assert gate.job.require == "accuracy>=0.9,log_loss<1"  # type: ignore[attr-defined]
    assert (export.job.format, export.job.images) == ("onnx", "held out")  # type: ignore[attr-defined]
    assert server.job.serve.port == 0  # type: ignore[attr-defined]
    for settings in (inspect, gate, export):
        assert settings.data.encoding == "latin-1"
    sweep = composed(asked.sweep())
    assert (sweep.job.name, sweep.model.name, sweep.limits.max_trials) == ("train", "resnet18", 8)
    assert "--multirun" in rewrite(asked.sweep())


def test_the_search_that_is_asked_for_is_the_one(pipeline: Any) -> None:
    asked = pipeline.asked([*WORDS, "limits.max_trials=3"])
    assert composed(asked.sweep()).limits.max_trials == 3
    asked = pipeline.asked([*WORDS, "+search=random"])
    assert not any(word.startswith("limits.") for word in asked.sweep())


def test_what_is_missing_is_said(pipeline: Any) -> None:
    with pytest.raises(SystemExit, match=r"^require=, test= is missing"):
        pipeline.asked(["training=photos"])


def test_it_leaves_with_the_code_of_the_step_that_failed(pipeline: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(pipeline, "LAV", (sys.executable, "-c", "import sys; sys.exit(7)"))
    with pytest.raises(SystemExit) as left:
        pipeline.step("gate", ["evaluate"])
    assert left.value.code == 7
    assert "gate ended with 7; nothing after it was done" in capsys.readouterr().err


TINY = [
    *("model=timm", "model.architecture=test_vit3", "model.pretrained=false", "trainer.accelerator=cpu"),
    *(f"training.{side}=32" for side in ("training_crop_size", "validation_crop_size", "validation_resize_size")),
    *("training.number_of_epochs=3", "training.training_batch_size=4", "training.number_of_workers=0"),
    *("data.split=stratified", "training.random_seed=1", "quiet=true"),
    *("+search=random", "training.learning_rate=0.01,0.02", "limits.max_trials=2"),
]


def test_a_request_to_end_is_passed_on_to_the_step(pipeline: Any, tmp_path: Path) -> None:
    """As a scheduler sends it, to this process alone: the step ends as it wants to, and nothing is left running."""
    step = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('at it', flush=True)"
    program = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import pipeline
pipeline.LAV = (sys.executable, "-c", {f"{step}; time.sleep(60)"!r})
pipeline.step("search", [])
"""
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    while running.stdout.readline() != b"at it\n":
        assert running.poll() is None
    running.terminate()
    _, said = running.communicate(timeout=50)
    assert (running.returncode, said) == (5, b"=== search ended with 5; nothing after it was done.\n")


def asked_of(port: int, photo: Path) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/score", photo.read_bytes(), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_from_images_to_a_server_and_never_past_the_gate(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", per_class=8)
    write_folders(tmp_path / "held_out", per_class=3)

    def command(require: str, serve: str) -> list[str]:
        words = ["training=photos", "test=held_out", f"require={require}", "folder=work", f"serve={serve}", *TINY]
        return [sys.executable, str(SCRIPT), *words]

    def run(require: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(require, "no"), cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = run("log_loss<=0")
    assert refused.returncode == 7, refused.stderr
    assert (tmp_path / "work" / "gate" / "result.json").exists()
    assert not (tmp_path / "work" / "exported").exists()
    passed = run("log_loss<=10")
    assert passed.returncode == 0, passed.stderr
    assert (tmp_path / "work" / "exported" / "model.onnx").exists()
    assert "=== export" in passed.stdout

    said = tmp_path / "said.txt"
    with said.open("w") as file:
        serving = subprocess.Popen(command("log_loss<=10", "serve.port=0"), cwd=tmp_path, stdout=file, stderr=file)
    try:
        until_true(lambda: "Ready." in said.read_text() or serving.poll() is not None, 600)
        found = re.search(r"http://127\.0\.0\.1:(\d+): ", said.read_text())
        assert found is not None, said.read_text()
        photo = next((tmp_path / "held_out").rglob("*.png"))
        (answer,) = asked_of(int(found[1]), photo)
        assert answer["labels"] == ["blue", "green", "red"]
        (expected,) = load(tmp_path / "work" / "exported").predict([photo])
        assert answer["probs"] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    finally:
        serving.terminate()
        code = serving.wait(120)
    assert code == 0, said.read_text()
    told = said.read_text()
    assert "=== gate" in told
    assert "=== serve: lav serve work/exported serve.port=0" in told
    assert "Asked to end; 0 requests are in flight." in told
    assert not [step for step in ("=== export", "=== look at the labels") if step in told]
