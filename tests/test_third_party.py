"""A plugin from another distribution: installed with pip, listed, trained, blocked, refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import write_folders

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "third_party_plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example, installed without network into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(source)], check=True)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def lav(*arguments, site, **environment):
    """The command line with what is installed in ``site`` beside it."""
    return subprocess.run(
        [sys.executable, "-m", "lightning_automl_vision", *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def write_plugin(folder, name, code):
    """A module and the metadata that pip would leave beside it."""
    (folder / f"{name}.py").write_text(code)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[lightning_automl_vision]\n{name} = {name}\n")
    return folder


def test_the_tutorial_is_the_example():
    tutorial = (ROOT / "plugins" / "README.md").read_text()
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", tutorial, flags=re.MULTILINE | re.DOTALL))
    files = {path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml") and "build" not in path.parts}
    assert shown == {str(path.relative_to(EXAMPLE)): path.read_text() for path in files}


def test_the_example_has_forty_lines():
    lines = [line for path in (EXAMPLE / "tiny_convnet").glob("*.py") for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) <= 40


def test_an_installed_plugin_is_listed(site):
    listing = lav("models", site=site)
    assert listing.returncode == 0, listing.stderr
    (row,) = [line for line in listing.stdout.splitlines() if line.startswith("tiny_convnet")]
    assert "Apache-2.0" in row
    assert "resnet18" in listing.stdout


def test_an_installed_plugin_is_trained(site, tmp_path):
    pictures = write_folders(tmp_path / "pictures")
    output = tmp_path / "run"
    run = lav(
        "model=tiny_convnet",
        "model.width=8",
        f"data.training={pictures}",
        f"output_dir={output}",
        "training.number_of_epochs=8",
        "training.training_batch_size=8",
        "training.training_crop_size=32",
        "training.validation_crop_size=32",
        "training.validation_resize_size=32",
        "training.number_of_workers=0",
        "training.random_seed=1",
        "augment=none",
        "trainer.accelerator=cpu",
        site=site,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads((output / "result.json").read_text())
    assert result["status"] in ("completed", "stopped_early")
    assert result["model"] == "tiny_convnet"
    # Chance is a third; the class is the colour.
    assert result["primary_metric"]["value"] > 0.5
    assert (output / "model" / "weights.safetensors").is_file()


def test_a_key_of_the_plugin_is_checked_like_any_other(site):
    misspelt = lav("model=tiny_convnet", "model.widht=8", "data.training=x", site=site)
    assert misspelt.returncode == 2
    assert "model.width" in misspelt.stderr
    outside = lav("model=tiny_convnet", "model.width=0", "data.training=x", site=site)
    assert outside.returncode == 2
    assert "model.width=0: must be at least 1" in outside.stderr


def test_the_contract_tests_take_up_an_installed_model(site):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py"]
    process = subprocess.run(
        [*command, "-k", "tiny_convnet"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 14


def test_a_broken_plugin_is_named_and_can_be_blocked(tmp_path):
    site = write_plugin(tmp_path, "broken_plugin", "import a_module_that_is_missing\n")
    broken = lav("models", site=site)
    assert broken.returncode == 4
    assert "Plugin 'broken_plugin' (broken_plugin) failed to load" in broken.stderr
    assert "LAV_BLOCK_PLUGINS=broken_plugin" in broken.stderr
    assert "Traceback" not in broken.stderr
    blocked = lav("models", site=site, LAV_BLOCK_PLUGINS="broken_plugin")
    assert blocked.returncode == 0, blocked.stderr
    assert "resnet18" in blocked.stdout


RIVAL = """
from lightning_automl_vision import ModelSpec, hookimpl

@hookimpl
def lav_models():
    return [ModelSpec(name="tiny_convnet", tasks=frozenset({"image_classification"}), builder="rival:build")]
"""


def test_two_plugins_with_one_model_name_are_refused_naming_both(site, tmp_path):
    rivals = write_plugin(tmp_path, "rival_plugin", RIVAL)
    path = os.pathsep.join([str(site), str(rivals)])
    refused = lav("models", site=path)
    assert refused.returncode == 4
    assert "Model 'tiny_convnet'" in refused.stderr
    assert "'rival_plugin'" in refused.stderr
    assert "'tiny_convnet'" in refused.stderr.replace("Model 'tiny_convnet'", "")
    assert lav("models", site=path, LAV_BLOCK_PLUGINS="rival_plugin").returncode == 0
