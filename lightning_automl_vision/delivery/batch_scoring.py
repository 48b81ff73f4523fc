"""What score.py of a model folder does: lists of files to rows that a scheduler appends to its output."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_automl_vision.delivery.answers import documented
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_folder import MODEL
from lightning_automl_vision.predictor import Predictor, load

MODEL_VARIABLE, BATCH_VARIABLE = "AZUREML_MODEL_DIR", "batch_size"
_DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class BatchScorer:
    predictor: Predictor
    batch_size: int | None = None

    @classmethod
    def open(cls, *, beside: Path) -> BatchScorer:
        """As the environment says, with the model in AZUREML_MODEL_DIR or else in the folder ``beside`` the script."""
        batch_size = batch_size_asked(os.environ.get(BATCH_VARIABLE))
        return cls(predictor=load(found_model(os.environ.get(MODEL_VARIABLE), beside)), batch_size=batch_size)

    def run(self, mini_batch: Sequence[str]) -> list[str]:
        """One row for each file that can be read, in their order; a warning in the log for every other."""
        rows = []
        answers = documented(self.predictor, mini_batch, self.batch_size)
        for file, answer in zip(mini_batch, answers, strict=True):
            if isinstance(answer, DataError):
                LOG.warning("%s", answer)
            else:
                rows.append(json.dumps({"filename": str(file), **answer}, ensure_ascii=False))
        return rows


def found_model(root: str | None, beside: Path) -> Path:
    """The one model below ``root``, the shallowest if one lies within another; beside the script without a root."""
    if not root:
        if not (beside / MODEL).is_file():
            raise ConfigError(
                f"{beside} holds no {MODEL}. Put score.py beside it, or name its folder: {MODEL_VARIABLE}=FOLDER."
            )
        return beside
    for depth in range(_DEEPEST):
        found = sorted(path.parent for path in Path(root).glob(f"{'*/' * depth}{MODEL}"))
        if found[1:]:
            raise ConfigError(
                f"{MODEL_VARIABLE}={root} holds several models, such as {found[0]} and {found[1]}."
                " Name the folder of one."
            )
        if found:
            return found[0]
    raise ConfigError(f"{MODEL_VARIABLE}={root} holds no model: there is no {MODEL} in it. Register a model folder.")


def batch_size_asked(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or not int(value):
        raise ConfigError(f"{BATCH_VARIABLE}={value}: the environment's number of pictures must be an integer from 1.")
    return int(value)
