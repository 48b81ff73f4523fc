"""Checkpoints: written straight to where they belong, whole or not at all, and read without running what is in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_automl_vision.storage import replacing
from lightning_automl_vision.training.continuing import LAST, PREVIOUS


class WholeFiles(TorchCheckpointIO):
    """Lightning's own makes a checkpoint in memory, then in the folder for temporary files, which may be small.

    ``loaded`` is the checkpoint that a training goes on from, which is given out once.
    """

    def __init__(self, loaded: dict[str, Any] | None = None) -> None:
        self._loaded = loaded

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path), before=PREVIOUS if Path(path).name == LAST else None)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        loaded, self._loaded = self._loaded, None
        return load(Path(path)) if loaded is None else loaded


def save(values: Mapping[str, Any], path: Path, *, before: str | None = None) -> None:
    """What torch can load again; through a file of ours, for torch alone would not say that the disk is full.

    It is on the disk when its name is. ``before`` is what the file is called from then on that it takes the place of.
    """
    with replacing(path) as part:
        with part.open("wb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            path.replace(path.with_name(before))


def load(path: Path) -> dict[str, Any]:
    """Tensors and plain values alone."""
    values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return values


def keep_as(path: Path, name: str) -> None:
    """The file under one more name beside it, which stays what it is when ``path`` is replaced."""
    kept = path.with_name(name)
    with replacing(kept) as part:
        try:
            os.link(path, part)
        except OSError:  # a file system without links
            shutil.copyfile(path, part)


def forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
