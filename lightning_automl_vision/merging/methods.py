"""The ways to merge by name, each with its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Merged, checked_threshold
from lightning_automl_vision.merging.fusion import weighted_fusion
from lightning_automl_vision.merging.growing import greedy_merging
from lightning_automl_vision.merging.overlaps import Overlap
from lightning_automl_vision.merging.suppression import ios_nms, nms, soft_nms

METHODS: Mapping[str, Callable[..., Merged]] = MappingProxyType(
    {
        "nms": nms,
        "soft_nms": soft_nms,
        "weighted_fusion": weighted_fusion,
        "ios_nms": ios_nms,
        "greedy_merging": greedy_merging,
    }
)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A method with its threshold; a call merges everything at once."""

    method: str = "nms"
    threshold: float = 0.25
    class_agnostic: bool = False
    largest: float = math.inf  # pixels; greedy_merging alone

    def __post_init__(self) -> None:
        checked_threshold(self.threshold)
        if self.largest < math.inf and self.method != "greedy_merging":
            raise ValueError(f"largest is a setting of greedy_merging, got largest={self.largest} for {self.method}")
        if self.method not in METHODS:
            raise ValueError(f"no merge method {self.method!r}; there are {', '.join(METHODS)}")

    def __call__(self, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> Merged:
        options: dict[str, Any] = {"threshold": self.threshold, "class_agnostic": self.class_agnostic}
        if self.method == "greedy_merging":
            options["largest"] = self.largest
        return METHODS[self.method](boxes, scores, labels, **options)

    @property
    def overlap(self) -> Overlap:
        """What the threshold is compared with."""
        return "ios" if self.method in ("ios_nms", "greedy_merging") else "iou"
