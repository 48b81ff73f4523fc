"""What a network computes of tensors alone: the side of an export that knows torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_automl_vision.export.runtime import IMAGES, SCORE_THRESHOLD, Arrays, Run

Axes = Mapping[int, str]
# The axes that may have any length, by their names.
BATCH: Axes = MappingProxyType({0: "batch"})
SIDES: Axes = MappingProxyType({2: "height", 3: "width"})
OBJECTS: Axes = MappingProxyType({0: "objects"})


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A module that maps normalised N x 3 x H x W pictures, and ``more`` inputs after them, to the ``outputs``.

    ``mean`` and ``std`` are those of pixels from 0 to 255, by channel. ``axes`` of the pictures, and those of each
    output, may have any length; heights and widths are multiples of ``multiple``. ``more`` has an example, and usual
    value, of each other input. A ``branching`` graph goes by the numbers it finds, as a suppression of boxes does: its
    pictures come one at a time. ``fixed`` are the model's parameters that are part of it, ``at_most`` those that may
    only become smaller. ``sensitive`` are parts of the module, by their names, whose numbers 8 bits are too few for.
    """

    module: nn.Module
    outputs: Mapping[str, Axes]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    axes: Axes
    multiple: int = 1
    more: Mapping[str, Tensor] = field(default_factory=dict)
    branching: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    at_most: Mapping[str, Any] = field(default_factory=dict)
    sensitive: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (IMAGES, *self.more)

    def module_with(self, *, normalising: bool) -> nn.Module:
        """For uint8 pictures, or for those that come normalised."""
        module: nn.Module = Normalising(self.module, self.mean, self.std) if normalising else self.module
        return module.eval()

    def example(self, side: int, *, normalising: bool) -> tuple[Tensor, ...]:
        """What the module can be called with; pictures are not square where they need not be."""
        wide = 2 if set(SIDES) <= set(self.axes) else 1
        images = torch.arange((2 if 0 in self.axes else 1) * 3 * side * wide * side) % 251
        shaped = images.view(-1, 3, side, wide * side)
        return (shaped.to(torch.uint8) if normalising else shaped / 125 - 1, *self.more.values())


class Normalising(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor, *more: Tensor) -> Any:
        return self.module((images.to(self.mean.dtype) - self.mean) / self.std, *more)


def eager(graph: Graph) -> Run:
    """The graph as torch computes it, for comparing."""
    module = graph.module_with(normalising=True)

    def run(inputs: Arrays) -> Arrays:
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        with torch.inference_mode():
            return named(graph.outputs, module(*(given.get(name, graph.more.get(name)) for name in graph.inputs)))

    return run


def named(names: Mapping[str, Any], answers: Any) -> dict[str, Any]:
    """A module's answer, one tensor or several, as arrays by their names."""
    tensors = (answers,) if isinstance(answers, Tensor) else answers
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def threshold_input(value: float) -> dict[str, Tensor]:
    """The input by which the lowest score of an answer may be chosen anew for each picture."""
    return {SCORE_THRESHOLD: torch.tensor(value)}
