"""Tasks never know which model they train: what their modules import says so."""

import ast
from pathlib import Path

import pytest

import lightning_automl_vision

PACKAGE = Path(lightning_automl_vision.__file__).parent
PLUGINS = {entry.name for entry in (PACKAGE.parent / "plugins").glob("lav_*")} | {"lav_timm"}
MODELS = ("timm", "torchvision.models", "torchvision")
HELD = sorted([*(PACKAGE / "tasks").glob("*.py"), PACKAGE / "samples.py"])


def imported(source):
    """Every module that the source names in an import, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def of_a_model(module):
    return any(module == name or module.startswith(f"{name}.") for name in (*PLUGINS, *MODELS, "plugins"))


@pytest.mark.parametrize("path", HELD, ids=lambda path: path.name)
def test_tasks_and_samples_import_no_model(path):
    assert [module for module in imported(path.read_text(encoding="utf-8")) if of_a_model(module)] == []


@pytest.mark.parametrize("path", HELD, ids=lambda path: path.name)
def test_tasks_and_samples_name_no_model(path):
    from lightning_automl_vision.plugins import model_specs

    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert texts & set(model_specs()) == set()


@pytest.mark.parametrize(
    "line",
    ["import timm", "from torchvision.models import resnet18", "from torchvision import models", "import lav_timm.x"],
)
def test_the_check_notices_an_import(line):
    assert any(of_a_model(module) for module in imported(f"def f():\n    {line}\n"))
