"""What a model folder can be put into, for programs that have forms of their own; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key

MLFLOW, TRITON = "mlflow", "triton"
PACKAGINGS = (MLFLOW, TRITON)
_OF_A_COPY = ("job", "job.format", "job.output", "checkpoint", "quiet", "task")


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


def check_keys(format: str, names: Sequence[str], *, copied: bool = False) -> None:
    """Refuse what the format has no use for, of the ``names`` of all keys that were given.

    Where the model folder is ``copied`` as it is, nothing about the writing of a network is of any use.
    """
    for name in names:
        known = name.removeprefix("job.")
        group = known.partition(".")[0]
        if group in PACKAGINGS and group != format:
            raise ConfigError(f"{known}: format={format} has no use for it. Leave it out.")
        if copied and group != format and name not in _OF_A_COPY:
            raise ConfigError(f"{known}: format={format} has no use for it, it copies the model folder. Leave it out.")
