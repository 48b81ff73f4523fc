"""Batch scoring with the model beside this file: ``init()`` once in each process, then ``run`` for lists of files.

Sizes, thresholds and tiles are changed in settings.json; the environment variable ``batch_size`` says how many
pictures the model sees at once. Where AZUREML_MODEL_DIR is set, the model lies below that folder.
"""

from functools import cache
from pathlib import Path

from lightning_automl_vision.delivery.batch_scoring import BatchScorer


@cache
def scorer() -> BatchScorer:
    return BatchScorer.open(beside=Path(__file__).parent)


def init() -> None:
    """Load the model, so that what is wrong with it is said before there are pictures."""
    scorer()


def run(mini_batch: list[str]) -> list[str]:
    """A row of JSON for each file that can be read: its name as ``filename``, and the documented answer."""
    return scorer().run(mini_batch)
