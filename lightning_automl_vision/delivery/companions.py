"""Files that a model folder ships beside the model: how to score in batches, and what must be installed for it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lightning_automl_vision.delivery.environment import conda_text, pinned_packages, requirements_text
from lightning_automl_vision.run import write

SCORE, REQUIREMENTS, CONDA = "score.py", "requirements.txt", "conda.yaml"


def write_companions(folder: Path, model: str, packages: Sequence[str] = ()) -> None:
    """``packages`` are those of its runtime, where that needs more than this package does."""
    pinned = pinned_packages(model, packages)
    write(folder / SCORE, (files(__package__) / SCORE).read_text(encoding="utf-8"))
    write(folder / REQUIREMENTS, requirements_text(pinned))
    write(folder / CONDA, conda_text(pinned))
