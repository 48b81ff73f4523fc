"""`lav export` for programs that have forms of their own: an MLflow model, a repository of Triton."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.folder import beside, check_free, keep
from lightning_automl_vision.export.packagings import MlflowConfig, TritonConfig

if TYPE_CHECKING:
    from lightning_automl_vision.model_folder import ModelCard


def pack_for_mlflow(card: ModelCard, found: Path, output: Path, config: MlflowConfig) -> str:
    """Writes, registers if asked to, and says what there is."""
    from lightning_automl_vision.export.mlflow import EXTRA, PACKAGES, write_mlflow
    from lightning_automl_vision.export.registering import register, registry_of

    check_free(str(output))
    if config.tracking_uri is not None and config.register is None:
        raise ConfigError(f"mlflow.tracking_uri={config.tracking_uri}: nothing goes there. Add mlflow.register=NAME.")
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ConfigError(
            f"format=mlflow: {missing[0]} is not installed. Install it: pip install 'lightning-automl-vision[{EXTRA}]'."
        )
    with beside(output) as place:
        write_mlflow(found, place / "model")
        keep(place / "model", output)
    told = f"{output}: {card.name} as an MLflow model; `mlflow models serve -m {output} --env-manager local` answers."
    if config.register is None:
        return told
    known = register(output, config.register, registry_of(config.tracking_uri), found.absolute().parent)
    return f"{told}\n{known.uri} in {known.tracking_uri} is a copy of it."


def pack_for_triton(
    card: ModelCard, found: Path, output: Path, config: TritonConfig, export_onnx: Callable[[Path], object]
) -> str:
    """``export_onnx`` writes the folder of the network, unless the model was exported so already."""
    from lightning_automl_vision.export.triton import check_name, write_triton

    check_free(str(output))
    name = config.name or card.name
    check_name(name)
    exported = found
    if card.exported is None:
        exported = output.with_name(f"{output.name}.onnx")
        export_onnx(exported)
    elif card.exported["format"] != "onnx":
        raise ConfigError(f"format=triton: {found} was exported as {card.exported['format']}. Name the run's folder.")
    try:
        with beside(output) as place:
            write_triton(exported, place / "repository", name)
            keep(place / "repository", output)
    finally:
        if exported != found:
            shutil.rmtree(exported, ignore_errors=True)
    return f"{output}: a repository with {name}; `tritonserver --model-repository={output}` serves it."
