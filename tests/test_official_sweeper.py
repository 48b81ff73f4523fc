"""Hydra's own Optuna sweeper drives this application too: it gives the primary metric back as a number.

It needs an Optuna older than 3, which this package's own search cannot use: install `hydra-optuna-sweeper` into an
environment of its own to have this test run.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from pictures import write_folders

SIZES = [f"training.{name}=32" for name in ("training_crop_size", "validation_crop_size", "validation_resize_size")]
IS_THERE = find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


@pytest.mark.skipif(not IS_THERE, reason="hydra-optuna-sweeper is not installed")
def test_the_official_sweeper_finds_the_best_value(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 8)
    command = [
        *(sys.executable, "-m", "lightning_automl_vision", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"),
        *("hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize", "model=resnet18", "model.pretrained=false"),
        *("data.training=photos", "training.number_of_epochs=1", "training.number_of_workers=0", "output_dir=sweep"),
        *("training.learning_rate=tag(log, interval(1e-4, 1e-1))", *SIZES),
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    results = [yaml.safe_load((tmp_path / "sweep" / name / "result.json").read_text()) for name in "01"]
    assert found["best_value"] == max(result["primary_metric"]["value"] for result in results)
