"""A model in MLflow's registry: a version of its name, kept by a run that says what the model was trained with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.mlflow import FOLDER
from lightning_automl_vision.mlflow_runs import (
    STORE,
    TrackedRun,
    absolute,
    client_of,
    experiment_in,
    impatient,
    in_short,
)

_EXPERIMENT = "lightning_automl_vision"
_STORE_VARIABLE = "MLFLOW_TRACKING_URI"
_TOLD = ("result.json", "evaluation.json", "config.yaml", "parity.json")


@dataclass(frozen=True, kw_only=True)
class Registered:
    name: str
    version: str
    tracking_uri: str

    @property
    def uri(self) -> str:
        """What MLflow's tools are given."""
        return f"models:/{self.name}/{self.version}"


def registry_of(asked: str | None) -> str:
    """The tracking URI that is asked for, or that of the environment, or MLflow's own place in the current folder."""
    return absolute(asked or os.environ.get(_STORE_VARIABLE) or f"sqlite:///{STORE}")


def register(exported: Path, name: str, tracking_uri: str, run: Path) -> Registered:
    """A new version of the model, whose files are copied; of the run's own run in MLflow where that has told it one."""
    try:
        with impatient():
            version = _version_of(exported, name, tracking_uri, run)
    except Exception as error:  # whatever a server, a database or a network may raise
        raise ConfigError(
            f"mlflow.register={name}: {in_short(error)}. The model stands in {exported}; look at"
            f" mlflow.tracking_uri={tracking_uri}."
        ) from None
    return Registered(name=name, version=version, tracking_uri=tracking_uri)


def _version_of(exported: Path, name: str, tracking_uri: str, run: Path) -> str:
    client, known = client_of(tracking_uri), TrackedRun.of(run)
    if known is None or known.tracking_uri != tracking_uri:
        known = _told(client, tracking_uri, run)
    client.log_artifacts(known.run_id, str(exported), FOLDER)
    _make_sure_of(client, name)
    source = f"{client.get_run(known.run_id).info.artifact_uri}/{FOLDER}"
    return str(client.create_model_version(name, source=source, run_id=known.run_id).version)


def _make_sure_of(client: Any, name: str) -> None:
    if not client.search_registered_models(filter_string=f"name='{name}'"):
        client.create_registered_model(name)


def _told(client: Any, tracking_uri: str, run: Path) -> TrackedRun:
    """A run for one that MLflow was told nothing of: what it was trained with, and what it came to."""
    experiment = experiment_in(client, tracking_uri, _EXPERIMENT)
    begun = client.create_run(experiment, run_name=run.absolute().name)
    tracked = TrackedRun(tracking_uri=tracking_uri, experiment_id=experiment, run_id=begun.info.run_id)
    config, result = _content(run / "config.yaml"), _content(run / "result.json")
    tracked.log_parameters({name: value for name, value in config.items() if name not in ("output_dir", "logger")})
    tracked.log_metrics(result.get("metrics", {}), "best/")
    tracked.log_metrics(result.get("test_metrics", {}), "test/")
    tracked.log_files(run, _TOLD)
    client.set_terminated(tracked.run_id)
    return tracked


def _content(file: Path) -> Mapping[str, Any]:
    """Nothing where there is no such file, as beside a model folder by itself."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
