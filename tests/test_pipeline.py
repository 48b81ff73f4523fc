"""examples/pipeline: its commands are ones that the program accepts, and it stops where a model is not good enough."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from pictures import write_folders

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register

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


@pytest.mark.slow
def test_from_images_to_an_export_and_never_past_the_gate(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", per_class=8)
    write_folders(tmp_path / "held_out", per_class=3)

    def run(require: str) -> subprocess.CompletedProcess[str]:
        words = ["training=photos", "test=held_out", f"require={require}", "folder=work", "serve=no", *TINY]
        command = [sys.executable, str(SCRIPT), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = run("log_loss<=0")
    assert refused.returncode == 7, refused.stderr
    assert (tmp_path / "work" / "gate" / "result.json").exists()
    assert not (tmp_path / "work" / "exported").exists()
    passed = run("log_loss<=10")
    assert passed.returncode == 0, passed.stderr
    assert (tmp_path / "work" / "exported" / "model.onnx").exists()
    again = run("log_loss<=10")
    assert again.returncode == 0, again.stderr
    assert "=== export" in passed.stdout
    assert "=== export" not in again.stdout
    assert "=== look at the labels" not in again.stdout
    assert "=== gate" in again.stdout
