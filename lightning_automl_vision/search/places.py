"""Files and folders that a space names: what is not there is refused before the first trial, not by the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.pipelines import read_pipeline
from lightning_automl_vision.search.distributions import Choice
from lightning_automl_vision.search.spaces import Space

_DATA = ("data.training", "data.validation", "data.images")
_PIPELINE = "augment.file"


def check_places(space: Space) -> None:
    """Of those that no check of a training looks at before it begins."""
    for key in (*_DATA, _PIPELINE):
        for value in _values(space, key):
            if key == _PIPELINE:
                read_pipeline(str(value))
            elif "://" not in str(value) and not Path(str(value)).exists():
                raise ConfigError(
                    f"{key}={value}: no such file or folder. Check the path, or leave it out of the space."
                )


def _values(space: Space, key: str) -> list[Any]:
    law = space.free.get(key)
    values = law.grid() if isinstance(law, Choice) else [space.fixed.get(key)]
    return [value for value in values if value is not None]
