"""Checkpoints: written straight to where they belong, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_automl_vision.storage import replacing


class WholeFiles(TorchCheckpointIO):
    """Lightning's own makes a checkpoint in memory, then in the folder for temporary files, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))


def save(values: Mapping[str, Any], path: Path) -> None:
    """What torch can load again; through a file of ours, for torch alone would not say that the disk is full."""
    with replacing(path) as part, part.open("wb") as file:
        torch.save(values, file)
