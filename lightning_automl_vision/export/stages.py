"""Where two sides of an export part: at the resizing, the network, the suppression of boxes, or the tiles' merging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_automl_vision.data.images import part_of
from lightning_automl_vision.export.agreement import agreement
from lightning_automl_vision.export.parity import limits_of
from lightning_automl_vision.export.runtime import Answers, Arrays, ExportedNetwork, Run
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.samples import Pixels

RESIZE, NETWORK, NMS, TILES, NONE = "resize", "network", "NMS", "tile merge", "no single stage"
# Of the largest number that an output holds.
LEAST = 1e-3
_SAME = 1 - LEAST


def stage_of(reference: Predictor, exported: Predictor, graph: Run, image: str) -> str:
    """The first stage at which this picture is treated differently; ``graph`` is what torch makes of the network.

    A suppression of boxes that is part of the exported network belongs to the network. No single stage is named where
    in none both sides differ by more than rounding.
    """
    before, after = (shown_of(predictor, image) for predictor in (reference, exported))
    if len(before) != len(after) or not all(map(np.array_equal, before, after)):
        return RESIZE
    assert isinstance(exported.network, ExportedNetwork)
    for picture in before:
        answers = exported.network.answers
        if not _alike(*(_outputs(run, answers, picture) for run in (graph, exported.network.run))):
            return NETWORK
    limits = limits_of(reference.card)
    last = NMS if reference.card.image_size is None else NETWORK  # a classifier has nothing after its network
    for picture in before:
        (one,), (other,) = reference.network([picture]), exported.network([picture])
        if agreement(one, other, **limits) < _SAME:
            return last
    if not reference.tiling.cuts:
        return NONE
    (one,), (other,) = reference.predict([image]), exported.predict([image])
    return TILES if agreement(one, other, **limits) < _SAME else NONE


def shown_of(predictor: Predictor, image: str) -> list[Pixels]:
    """What the network sees of the picture, window by window."""
    pixels, size = predictor.picture(image)
    if not predictor.tiling.cuts:
        return [predictor.resizing(pixels)]
    return [predictor.resizing(part_of(pixels, window)) for window in predictor.tiling.windows(*size)]


def _outputs(run: Run, answers: Answers, picture: Pixels) -> list[Arrays]:
    """Everything that the network answers, before it is read."""
    heard: list[Arrays] = []

    def listening(inputs: Arrays) -> Arrays:
        heard.append(run(inputs))
        return heard[-1]

    answers(listening, [picture])
    return heard


def _alike(first: Sequence[Arrays], second: Sequence[Arrays]) -> bool:
    return all(
        one[name].shape == other[name].shape and _difference(one[name], other[name]) <= LEAST
        for one, other in zip(first, second, strict=True)
        for name in one
    )


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest, as a share of the largest number."""
    if not first.size:
        return 0.0
    apart = np.abs(first.astype(np.float64) - second).max()
    return float(apart / max(np.abs(first).max(), 1e-9)) if np.isfinite(apart) else np.inf
