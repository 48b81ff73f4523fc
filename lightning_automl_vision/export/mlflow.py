"""A model folder as MLflow knows models: code and JSON, no pickle, nothing that says where it was made."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from lightning_automl_vision.delivery.companions import CONDA, REQUIREMENTS, SCORE
from lightning_automl_vision.delivery.environment import pinned_packages
from lightning_automl_vision.export.formats import format_named
from lightning_automl_vision.installed import version_of
from lightning_automl_vision.model_folder import read_card
from lightning_automl_vision.run import write

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from lightning_automl_vision.model_folder import ModelCard

PACKAGES = ("mlflow", "pandas")
EXTRA = "mlflow"
CODE, DESCRIPTION, FOLDER = "model.py", "MLmodel", "mlflow-model"
_SOURCE = "model_of_mlflow.py"
# What MLflow's own environment takes the place of, and what is asked through a mini batch of files.
_LEFT_OUT = (SCORE, REQUIREMENTS, CONDA)
# MLflow's bars, and that it takes files of another tool from the current folder.
_SWITCHED_OFF = ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_UV_AUTO_DETECT")


def write_mlflow(model: Path, output: Path) -> None:
    """The folder ``output``, which must not exist yet; of an exported model as of one that torch runs."""
    card, found = read_card(model)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    for switch in _SWITCHED_OFF:
        os.environ.setdefault(switch, "false")
    with TemporaryDirectory(prefix="lav_") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        import mlflow.pyfunc

        code = Path(folder) / CODE
        code.write_text(
            (files("lightning_automl_vision.delivery") / _SOURCE).read_text(encoding="utf-8"), encoding="utf-8"
        )
        mlflow.pyfunc.save_model(
            str(output),
            python_model=str(code),
            artifacts={file.name: str(file) for file in sorted(found.iterdir()) if file.name not in _LEFT_OUT},
            signature=signature_of(card),
            pip_requirements=pinned_packages(card.name, (_mlflow_package(), "pandas", *_runtime_of(card))),
        )
    _forget_origin(output / DESCRIPTION)


def signature_of(card: ModelCard) -> ModelSignature:
    """Pictures in a column of bytes, which MLflow takes as base64 over HTTP; the documented columns out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    number, text = DataType.double, DataType.string
    if card.task.startswith("image_classification"):
        decided = ColSpec(Array(text), "decided", required=False)  # only where operating points are in use
        outputs = [ColSpec(Array(number), "probs"), ColSpec(Array(text), "labels"), decided]
    else:
        corners = Object([Property(name, number) for name in ("topX", "topY", "bottomX", "bottomY")])
        properties = [Property("box", corners), Property("label", text), Property("score", number)]
        if card.task == "image_instance_segmentation":
            properties.append(Property("polygon", Array(Array(number))))
        outputs = [ColSpec(Array(Object(properties)), "boxes")]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("batch_size", DataType.long, default=card.usual_batch_size)]),
    )


def _runtime_of(card: ModelCard) -> tuple[str, ...]:
    return () if card.exported is None else format_named(card.exported["format"]).TO_ASK


def _mlflow_package() -> str:
    """The package that brings MLflow here: the whole of it, or what does without a server's needs."""
    return next((name for name in ("mlflow", "mlflow-skinny") if version_of(name)), "mlflow")


def _forget_origin(file: Path) -> None:
    """MLflow notes where everything lay, and needs no more than the names within the folder."""
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    flavour = document["flavors"]["python_function"]
    flavour["model_code_path"] = CODE
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    write(file, yaml.safe_dump(document, sort_keys=False))
