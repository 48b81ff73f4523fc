"""``model/score.py``, as a scheduler runs it, and the packages that must be installed for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from label_files import DETECTION, MULTICLASS, MULTILABEL, SEGMENTATION
from pictures import write_picture
from untrained import save_untrained

from lightning_automl_vision.api import settings
from lightning_automl_vision.delivery import environment
from lightning_automl_vision.delivery.batch_scoring import found_model
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.jobs import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("run"), MULTICLASS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(5):
        write_picture(folder / f"{number}.png", tuple(random.integers(0, 255, 3)), random)
    return folder


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZUREML_MODEL_DIR", "batch_size"):
        monkeypatch.delenv(name, raising=False)


def script(folder: Path) -> Any:
    """The module of a model folder's own score.py."""
    spec = spec_from_file_location("score", folder / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.init()
    return module


def files_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("*.png")))


def predicted(run: Path, photos: Path, output: Path, batch_size: int) -> list[Any]:
    job = {"name": "predict", "input": str(photos), "output": str(output), "batch_size": batch_size}
    predict.run(settings(checkpoint=str(run), job=job, quiet=True))
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL, DETECTION, SEGMENTATION])
def test_its_rows_are_what_predict_writes(task: str, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run = save_untrained(tmp_path / "run", task)
    monkeypatch.setenv("batch_size", "2")
    rows = [json.loads(row) for row in script(run / "model").run(files_in(photos))]
    assert [row.pop("filename") for row in rows] == files_in(photos)
    told = predicted(run, photos, tmp_path / "out", 2)
    assert rows == [{name: value for name, value in row.items() if name != "filename"} for row in told]
    assert set(rows[0]) == ({"boxes"} if task in (DETECTION, SEGMENTATION) else {"probs", "labels"})


def test_a_row_is_one_line_for_each_file_that_can_be_read(run: Path, photos: Path, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    good = files_in(photos)[0]
    rows = script(run / "model").run([str(tmp_path / "bad.png"), good, str(tmp_path / "gone.png")])
    (row,) = rows
    assert "\n" not in row
    assert json.loads(row)["filename"] == good
    assert "bad.png" in caplog.text
    assert "gone.png" in caplog.text


def test_nothing_to_score_is_nothing_found(run: Path) -> None:
    assert script(run / "model").run([]) == []


def test_edited_settings_are_obeyed(run: Path, photos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "model", tmp_path / "edited")
    values = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**values, "valid_resize_size": 200}))
    one = files_in(photos)[:1]
    assert script(folder).run(one) != script(run / "model").run(one)
    (folder / "settings.json").write_text(json.dumps({**values, "valid_resize": 200}))
    with pytest.raises(ConfigError, match="has no setting 'valid_resize'"):
        script(folder)


def test_it_works_from_any_folder_by_itself(run: Path, photos: Path, tmp_path: Path) -> None:
    """With the model somewhere below AZUREML_MODEL_DIR, and the script elsewhere."""
    shutil.copytree(run / "model", tmp_path / "registered" / "mlflow-model" / "artifacts")
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(run / "model" / "score.py", code)
    program = "import sys, score; score.init(); print(*score.run(sys.argv[1:]), sep='\\n')"
    process = subprocess.run(
        [sys.executable, "-c", program, *files_in(photos)],
        cwd=code,
        env={"PATH": "", "OMP_NUM_THREADS": "1", "AZUREML_MODEL_DIR": str(tmp_path / "registered")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert [row["filename"] for row in rows] == files_in(photos)


def test_the_script_imports_this_package_alone(run: Path) -> None:
    lines = (run / "model" / "score.py").read_text().splitlines()
    imported = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"lightning_automl_vision", *sys.stdlib_module_names}


@pytest.mark.parametrize("size", ["0", "-1", "many", "", "1.5"])
def test_a_batch_size_that_is_none_is_refused(run: Path, size: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("batch_size", size)
    with pytest.raises(ConfigError, match=rf"^batch_size={size}: .* an integer from 1"):
        script(run / "model")


def test_the_model_is_found_below_a_folder_or_the_reason_is_said(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    with pytest.raises(ConfigError, match=r"Put score\.py beside it, or name its folder: AZUREML_MODEL_DIR=FOLDER"):
        found_model(None, beside)
    with pytest.raises(ConfigError, match=r"holds no model: there is no model\.json"):
        found_model(str(tmp_path), beside)
    for name in ("one", "two/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.json").write_text("{}")
    assert found_model(str(tmp_path), beside) == tmp_path / "one"
    assert found_model(str(tmp_path / "two"), beside) == tmp_path / "two" / "deep"
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    with pytest.raises(ConfigError, match=r"holds several models, such as .*one and .*three"):
        found_model(str(tmp_path), beside)


def test_the_environment_is_pinned_for_pip_and_conda(run: Path) -> None:
    packages = (run / "model" / "requirements.txt").read_text().split()
    names = dict(package.split("==") for package in packages)
    assert names["lightning-automl-vision"] == version("lightning-automl-vision")
    assert names["torch"] == version("torch").partition("+")[0]
    assert {"timm", "opencv-python-headless", "numpy", "safetensors"} <= names.keys()
    assert not {"pytest", "tensorboard", "mlflow-skinny"} & names.keys()
    document = yaml.safe_load((run / "model" / "conda.yaml").read_text())
    python, pip, installed = document["dependencies"]
    assert python == f"python={sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    assert (pip, installed) == ("pip", {"pip": packages})


def test_builds_of_one_version_have_one_name() -> None:
    assert environment._public("2.9.1+cpu") == "2.9.1"


def test_the_package_of_the_models_plugin_is_among_them(monkeypatch: Any) -> None:
    class Distribution:
        name = "numpy"

    class Entry:
        name, dist = "strangers", Distribution

    class Spec:
        name = "strange_net"

    monkeypatch.setattr(environment, "models_by_plugin", lambda: {"strangers": [Spec]})
    monkeypatch.setattr(environment, "entry_points", lambda group: [Entry])
    monkeypatch.setattr(environment, "requires", lambda name: ["never-heard-of>=1; sys_platform == 'other'"])
    this = f"lightning-automl-vision=={version('lightning-automl-vision')}"
    numpy = f"numpy=={version('numpy')}"
    assert environment.pinned_packages("strange_net") == [this, numpy]
    assert environment.pinned_packages("another") == [this]
    assert environment.pinned_packages("another", ["numpy"]) == [this, numpy]
