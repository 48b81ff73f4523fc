"""What a run comes to: the same words in ``result.json`` and in Python."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.installed import version_of

RESULT = "result.json"
# What `status` may be; docs/reference.md says what each means.
PRUNED = "pruned"
FINISHED = ("completed", "stopped_early", "timeout", PRUNED)
STATUSES = (*FINISHED, "interrupted", "failed")
_PACKAGES = (
    "lightning-automl-vision",
    "torch",
    "lightning",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class PrimaryMetric:
    name: str
    value: float | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """``metrics`` are those of the best epoch on the validation set, ``test_metrics`` of its model on the test set.

    With ``data.folds`` the metrics are those of all images, each judged by the model that has not seen it, and
    ``folds`` has the value of each. ``batch_size`` is what was ``requested`` and what was ``used``; ``started_from``
    tells which tensors and labels came from an earlier model. ``reason`` says why a pruned run was asked to end,
    ``error`` why a failed one could not go on.
    """

    status: str
    task: str
    model: str
    primary_metric: PrimaryMetric
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    test_metrics: Mapping[str, float | None] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    random_seed: int | None = None
    folder: str = ""
    folds: Mapping[str, Any] = field(default_factory=dict)
    started_from: Mapping[str, Any] = field(default_factory=dict)
    batch_size: Mapping[str, Any] = field(default_factory=dict)
    validation_batch_size: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    error: str | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    device_memory: int | None = field(default_factory=lambda: device_memory())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def versions() -> dict[str, str]:
    """Of this package, of Python, and of everything a number may depend on, which an exported model may do without."""
    return {"python": platform.python_version(), **{package: version_of(package) or "none" for package in _PACKAGES}}


def device_memory() -> int | None:
    """The most bytes of a GPU that this process has used; torch is asked only if something else has imported it."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_initialized() else None


def read_result(folder: str | Path) -> Result:
    path = Path(folder) / RESULT
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Result(**{"device_memory": None, **values, "primary_metric": PrimaryMetric(**values["primary_metric"])})
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Name the folder of a run.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not a result of this version: {error}.") from None
