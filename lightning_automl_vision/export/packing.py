"""`lav export` for programs that have forms of their own: an MLflow model, a repository of Triton."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.folder import aside_of, beside, check_free, keep
from lightning_automl_vision.export.formats import check_installed, check_packages
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
    check_installed("mlflow", PACKAGES, EXTRA)
    with beside(output) as place:
        write_mlflow(found, place / "model")
        keep(place / "model", output)
    told = f"{output}: {card.name} as an MLflow model; `mlflow models serve -m {output} --env-manager local` answers."
    if config.register is None:
        return told
    known = register(output, config.register, registry_of(config.tracking_uri), found.absolute().parent)
    return f"{told}\n{known.uri} in {known.tracking_uri} is a copy of it."


def pack_for_triton(
    card: ModelCard,
    found: Path,
    output: Path,
    config: TritonConfig,
    export_onnx: Callable[[Path, Path], Mapping[str, Any]],
) -> str:
    """``export_onnx`` writes the folder of the network, unless the model was exported so already, or another aside."""
    from lightning_automl_vision.export.cost import summary
    from lightning_automl_vision.export.triton import VERSION, check_name, write_triton

    check_free(str(output))
    name = config.name or card.name
    check_name(name)
    if card.exported is not None and card.exported["format"] != "onnx":
        raise ConfigError(f"format=triton: {found} was exported as {card.exported['format']}. Name the run's folder.")
    check_packages("onnx", writing=card.exported is None)
    compared = ""
    with beside(output) as place:
        exported = found if card.exported is not None else place / "onnx"
        if card.exported is None:
            document = export_onnx(exported, aside_of(output))
            compared = f"{summary(document, 'onnx', str(output / name / VERSION))}\n"
        write_triton(exported, place / "repository", name)
        keep(place / "repository", output)
    return f"{compared}{output}: a repository with {name}; `tritonserver --model-repository={output}` serves it."
