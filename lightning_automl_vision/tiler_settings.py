"""The typed nodes of the group ``tiler``: how an image is cut, and how what is found in its parts is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_automl_vision.keys import key

MERGES = ("nms", "ios_nms", "soft_nms", "weighted_fusion", "greedy_merging")


@dataclass
class TilerConfig:
    """The whole image is the only window."""

    name: str = key("none", "How an image is cut into windows before the model sees it.")


@dataclass
class TilingConfig(TilerConfig):
    """What every way of cutting has; the whole image is always one of the windows."""

    predictions_nms_threshold: float = key(
        0.25,
        "What is found in several windows of an image is merged where it overlaps more than this.",
        minimum=0,
        maximum=1,
        old=("tile_predictions_nms_threshold",),
    )
    merge: str = key(
        "nms",
        "How: `nms` keeps the best of boxes by their intersection over union, `ios_nms` by the intersection over the"
        " smaller one, `soft_nms` lowers scores instead, `weighted_fusion` averages boxes, `greedy_merging` lets the"
        " best box grow over those it overlaps, again by the smaller one.",
        choices=MERGES,
    )
    class_agnostic: bool = key(False, "Merge boxes of different classes too.")
    largest: float | None = key(
        None,
        "The longest side in pixels that `greedy_merging` lets a box grow to; where objects of a class stand close"
        " together, it needs one.",
        above=0,
    )
    minimum_visibility: float = key(
        0.25,
        "An object, or a crowd, of which a tile shows a smaller share of its area is left out of the tile's training.",
        minimum=0,
        maximum=1,
    )
    empty_tiles: float = key(
        0.5,
        "At most this share of the tiles of an epoch shows no object, drawn anew for each; 1 keeps all, 0 none."
        " Evaluation and prediction always look at all.",
        minimum=0,
        maximum=1,
    )
    cache_megabytes: int = key(
        1024,
        "What decoded images may take while their windows are read, all reading processes together; the larger, the"
        " more images a batch mixes.",
        minimum=1,
    )


@dataclass
class GridTilerConfig(TilingConfig):
    name: str = key("grid", "How an image is cut into windows before the model sees it.")
    grid_size: Any = key(
        "3x2",
        "Tiles across x tiles down, each W / (nx - (nx - 1) r) wide and likewise high, r being the overlap;"
        " `none` is no tiling.",
        old=("tile_grid_size",),
    )
    tile_size: Any = key(
        None, "Instead of a grid, the size of a tile in pixels, such as 640x640: as many as an image needs."
    )
    overlap_ratio: float = key(
        0.25,
        "The share of a tile that the next one shows too; with `tile_size` at least that.",
        minimum=0,
        below=1,
        old=("tile_overlap_ratio",),
    )


@dataclass
class AutoTilerConfig(TilingConfig):
    """The grid, or none, that `lav inspect report=tiling` recommends for the training set and the model."""

    name: str = key("auto", "How an image is cut into windows before the model sees it.")


@dataclass
class CustomTilerConfig(TilingConfig):
    """A class of one's own, found by its path."""

    name: str = key("custom", "How an image is cut into windows before the model sees it.")
    _target_: str = key(
        "???", "The path of a subclass of `lightning_automl_vision.tiling.Tiler`, such as mine.tilers.Rings."
    )
    arguments: Any = key(None, "What that class is made with, such as '{rings: 3}'.")
