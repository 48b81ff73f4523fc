"""What is public, and what the documents say of it."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import lightning_automl_vision
from lightning_automl_vision.arguments import ROOT as ROOT_KEYS
from lightning_automl_vision.errors import VisionError
from lightning_automl_vision.help import keys_document
from lightning_automl_vision.jobs import job_configs

ROOT = Path(__file__).parent.parent


def test_public_names_are_sorted_and_all_exist():
    names = lightning_automl_vision.__all__
    assert names == sorted(names)
    assert all(getattr(lightning_automl_vision, name) is not None for name in names)


def test_the_table_of_keys_is_made_from_the_typed_nodes():
    assert (ROOT / "docs" / "keys.md").read_text(encoding="utf-8") == keys_document(), "run `make docs`"


def test_every_error_has_an_exit_code_of_its_own_and_the_reference_names_it():
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    codes = [error.exit_code for error in VisionError.__subclasses__()]
    assert len(codes) == len(set(codes))
    assert all(f"| {error.exit_code} |" in reference for error in VisionError.__subclasses__())


def test_the_reference_names_every_verb_with_its_own_keys():
    lines = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    for verb, config in job_configs().items():
        (line,) = (line for line in lines if re.match(rf"\| `{verb}[` ]", line))
        told = {name.partition(".")[0] for name in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2])}
        assert told == {item.name for item in fields(config)} - ROOT_KEYS - {"name"}, verb


def test_nothing_written_for_readers_is_longer_than_400_lines():
    long = [path for path in ROOT.glob("lightning_automl_vision/**/*.py") if len(path.read_text().splitlines()) > 400]
    assert not long


def test_light_modules_do_not_import_torch_at_their_top():
    light = ["keys", "settings", "specs", "samples", "errors", "plugins", "config", "composed", "arguments", "help"]
    for name in light:
        tree = ast.parse((ROOT / "lightning_automl_vision" / f"{name}.py").read_text())
        imported = {
            alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names
        } | {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
        assert not imported & {"torch", "lightning", "timm", "torchvision", "albumentations"}, name
