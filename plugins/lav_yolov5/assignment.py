"""Which cells of the maps are to find which objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The cell of the centre, then its neighbours on the left, above, on the right and below, in steps of half a cell.
_STEPS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))


@dataclass(frozen=True)
class Assigned:
    """The rows of one level: a place in its map, and the object that is to be found there.

    ``boxes`` are the offset of the centre from the cell, width and height in cells; ``anchors`` are in cells as well.
    Where rows have a place in common, the last of them counts for the objectness.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    label: Tensor
    boxes: Tensor
    anchors: Tensor

    def __len__(self) -> int:
        return len(self.image)


def assign(targets: Tensor, shapes: Sequence[tuple[int, int]], anchors: Tensor, *, threshold: float) -> list[Assigned]:
    """For each level of rows x columns the places that are to find objects: an object may have many, or none.

    ``targets`` are rows of image, class, and centre and size as shares of the network's input; ``anchors`` are
    levels x anchors x 2 in cells. An object suits an anchor if neither side differs by the factor ``threshold``.
    """
    grids = targets.new_tensor([(columns, rows) for rows, columns in shapes])[:, None]
    centres, sizes = targets[:, 2:4] * grids, targets[:, 4:6] * grids
    ratios = sizes[:, None] / anchors.to(targets)[:, :, None]
    suits = torch.maximum(ratios, 1 / ratios).amax(dim=-1) < threshold
    candidates = _near(centres, grids)[:, :, None] & suits[:, None]
    # Levels, then cells in the order of the steps, then anchors, then objects.
    level, step, anchor, target = candidates.nonzero(as_tuple=True)
    centres, sizes, grids = centres[level, target], sizes[level, target], grids[level, 0]
    cells = (centres - centres.new_tensor(_STEPS)[step]).trunc()
    cells = torch.minimum(cells, grids - 1).clamp(min=0)
    image, label = targets[target, :2].long().unbind(dim=-1)
    column, row = cells.long().unbind(dim=-1)
    boxes = torch.cat([centres - cells, sizes], dim=-1)
    columns = (image, anchor, row, column, label, boxes, anchors.to(targets)[level, anchor])
    counts = torch.bincount(level, minlength=len(shapes)).tolist()
    return [Assigned(*parts) for parts in zip(*(torch.split(values, counts) for values in columns), strict=True)]


def _near(centres: Tensor, grids: Tensor) -> Tensor:
    """Levels x steps x objects: whether the cell is the centre's own or the nearest neighbour on an axis."""
    both = torch.cat([centres, grids - centres], dim=-1)
    neighbours = (both % 1 < 0.5) & (both > 1)
    own = torch.ones_like(neighbours[..., :1])
    return torch.cat([own, neighbours], dim=-1).transpose(1, 2)
