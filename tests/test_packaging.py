"""The wheel and the source distribution carry everything, and work away from the checkout."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def test_the_wheel_carries_code_configuration_and_plugins(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "lightning_automl_vision/main.py",
        "lightning_automl_vision/py.typed",
        "lightning_automl_vision/conf/config.yaml",
        "lightning_automl_vision/serving/page/index.html",
        "lightning_automl_vision/conf/experiment/quickstart.yaml",
        "lav_timm/__init__.py",
        "lav_timm/model.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "conf/", "benchmarks/"))]


def test_the_source_distribution_carries_the_tests(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"tests/test_packaging.py", "conf/config.yaml", "plugins/lav_timm/__init__.py", "README.md"} <= names


def test_the_wheel_works_away_from_the_checkout(distributions, tmp_path):
    (wheel,) = distributions.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = ['lav', '--cfg', 'job', '+experiment=quickstart'];"
    )
    code += "from lightning_automl_vision import main; print(main.__file__); main.main()"
    environment_without_checkout = [sys.executable, "-P", "-c", code]
    process = subprocess.run(environment_without_checkout, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(str(site))
    assert "number_of_epochs: 10" in process.stdout
