"""The model of an MLflow folder. Imported by that folder's model.py alone, as it needs MLflow and pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel
from mlflow.pyfunc.model import PythonModelContext

from lightning_automl_vision.delivery.answers import Answer, documented
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.model_folder import SETTINGS
from lightning_automl_vision.predictor import Predictor, load
from lightning_automl_vision.serving.contents import Fault, decoded
from lightning_automl_vision.serving.refusals import Refused

COLUMN, ERROR = "image", "error"


class ImageModel(PythonModel):  # type: ignore[misc]  # MLflow ships no types
    """A column ``image`` of encoded pictures, or of these in base64, to a row of the documented answer for each."""

    predictor: Predictor

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = load(Path(context.artifacts[SETTINGS]).parent)

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """A picture that cannot be used has its reason in a column ``error``; refused if none of them can."""
        classifies = self.predictor.card.task.startswith("image_classification")
        values = enumerate(model_input[COLUMN])
        pictures = [_encoded(value, f"{COLUMN}[{row}]", classifies=classifies) for row, value in values]
        answers = list(_in_order(self.predictor, pictures, _batch_size(params or {})))
        faults = [answer[ERROR] for answer in answers if ERROR in answer]
        if faults and len(faults) == len(answers):
            raise MlflowException.invalid_parameter_value(f"None of the pictures can be used. The first: {faults[0]}")
        columns = dict.fromkeys(name for answer in answers for name in answer)
        return pandas.DataFrame(
            {name: [answer.get(name) for answer in answers] for name in columns}, index=model_input.index, dtype=object
        )


def _in_order(predictor: Predictor, pictures: Sequence[bytes | DataError], batch_size: int | None) -> Iterator[Answer]:
    good = [picture for picture in pictures if isinstance(picture, bytes)]
    answers = documented(predictor, good, batch_size)
    for picture in pictures:
        answer = next(answers) if isinstance(picture, bytes) else picture
        yield {ERROR: _reason(answer)} if isinstance(answer, DataError) else answer


def _reason(error: DataError) -> str:
    return str(error).replace("the given bytes: ", "The picture ", 1)


def _encoded(value: Any, place: str, *, classifies: bool) -> bytes | DataError:
    """Of a text in any form that `lav serve` takes too."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        return DataError(f"A picture is bytes, or these in base64, not {type(value).__name__}.")
    try:
        content = decoded(value, place, classifies=classifies)
    except Refused as refused:
        return DataError(refused.reason)
    return DataError(content.reason) if isinstance(content, Fault) else content


def _batch_size(parameters: Mapping[str, Any]) -> int | None:
    size = parameters.get("batch_size")
    if size is not None and size < 1:
        raise MlflowException.invalid_parameter_value(
            f"batch_size={size}: the pictures at once must be an integer from 1."
        )
    return size
