"""What a model folder can be put into, for programs that have forms of their own; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key

MLFLOW, TRITON = "mlflow", "triton"
PACKAGINGS = (MLFLOW, TRITON)
_OF_MLFLOW = ("job", "job.format", "job.output", "checkpoint", "quiet", "task")


@dataclass
class MlflowConfig:
    """For format=mlflow."""

    register: str | None = key(None, "The name in MLflow's registry that gets the model as a new version.")
    tracking_uri: str | None = key(
        None, "MLflow's store or server; by default MLFLOW_TRACKING_URI, or else mlflow.db in the current folder."
    )


@dataclass
class TritonConfig:
    """For format=triton."""

    name: str | None = key(None, "The model's name in the repository; by default that of the network.")


def check_keys(format: str, names: Sequence[str]) -> None:
    """Refuse what the format has no use for, of the ``names`` of all keys that were given."""
    for name in names:
        of = name.removeprefix("job.").partition(".")[0]
        is_foreign = of in PACKAGINGS and of != format
        if is_foreign or (format == MLFLOW and not name.startswith("job.mlflow.") and name not in _OF_MLFLOW):
            raise ConfigError(f"{name.removeprefix('job.')}: format={format} has no use for it. Leave it out.")
