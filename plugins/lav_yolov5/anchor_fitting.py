"""How well anchors suit objects, and anchors that suit them better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import FloatArray

Numbers = NDArray[np.float32]

_MOST = 5000
_SMALLEST = 2.0  # pixels
_RESTARTS = 30
_ROUNDS = 100
_HARDLY = 1e-4
_CHANGED = 0.9
_CHANGE = 0.1
_LEAST_FACTOR, _GREATEST_FACTOR = 0.3, 3.0


@dataclass(frozen=True)
class Coverage:
    """``recall`` is the best possible one: the share of the objects that any anchor may take.

    ``per_target`` is how many anchors may take an object on average. ``fitness`` is the mean agreement of an object
    with its best anchor, which is 0 for one that is out of reach.
    """

    recall: float
    per_target: float
    fitness: float


def coverage(sizes: FloatArray, anchors: FloatArray, threshold: float) -> Coverage:
    """Of at least one size, N x 2, in the anchors' unit; an anchor takes what differs by a smaller factor."""
    best = np.zeros(len(sizes))
    taken = 0
    for anchor in anchors.reshape(-1, 2):
        agreement = agreements(sizes, anchor)
        best = np.maximum(best, agreement)
        taken += int(np.count_nonzero(agreement > 1 / threshold))
    near = best > 1 / threshold
    fitness = float(np.where(near, best, 0).mean())
    return Coverage(recall=float(near.mean()), per_target=taken / len(sizes), fitness=fitness)


def agreements(sizes: FloatArray, anchor: FloatArray) -> FloatArray:
    """From 0 to 1: the shorter by the longer of two sides, for the axis where they differ more."""
    agreement: FloatArray = (np.minimum(sizes, anchor) / np.maximum(sizes, anchor)).min(axis=1)
    return agreement


def fitted_anchors(
    sizes: FloatArray,
    *,
    count: int = 9,
    image_size: int,
    threshold: float,
    generator: np.random.Generator,
    generations: int = 1000,
) -> FloatArray:
    """Count x 2 sides in pixels, smallest area first: means of clusters, then changed at random for the better.

    Objects less than 2 pixels wide and high are left out. Of more than 5000 others as many are drawn.
    """
    seen = sizes[(sizes >= _SMALLEST).any(axis=1)]
    if len(seen) > _MOST:
        seen = seen[generator.choice(len(seen), _MOST, replace=False)]
    anchors = _start(seen, count, image_size, threshold, generator)
    if len(seen):
        anchors = _evolved(anchors, seen, threshold, generator, generations)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


def _start(
    sizes: FloatArray, count: int, image_size: int, threshold: float, generator: np.random.Generator
) -> FloatArray:
    """The fittest of several sets of clusters' means; the sizes themselves, in turn, where they are too few for that.

    Sizes are compared in units of their spread, so that neither axis outweighs the other. Without any size the numbers
    are random.
    """
    spread = sizes.std(axis=0) if len(sizes) else np.zeros(2)
    different = np.unique(sizes, axis=0)
    if not len(different):
        return np.maximum(np.sort(generator.random(count * 2)).reshape(count, 2) * image_size, _SMALLEST)
    if len(different) < count or not spread.all():
        return np.maximum(different[np.arange(count) % len(different)], _SMALLEST)
    points = (sizes / spread).astype(np.float32)
    first = (points[generator.choice(len(points), count, replace=False)] for _ in range(_RESTARTS))
    return max(
        (_cluster_means(points, means) * spread for means in first),
        key=lambda means: coverage(sizes, means, threshold).fitness,
    )


def _cluster_means(points: Numbers, means: Numbers) -> Numbers:
    """Means moved to the middle of the points that are nearest to them, until that hardly brings them nearer."""
    everyone = np.arange(len(points))
    length = float(np.square(points).sum(axis=1).mean())
    before = np.inf
    for _ in range(_ROUNDS):
        # Squared distances, less the squared length of the point.
        distances = np.square(means).sum(axis=1) - 2 * (points @ means.T)
        nearest = distances.argmin(axis=1)
        after = length + float(distances[everyone, nearest].mean())
        if before - after < _HARDLY * after:
            break
        before = after
        members = np.bincount(nearest, minlength=len(means))[:, None]
        sums = np.stack([np.bincount(nearest, axis, len(means)) for axis in points.T], axis=1)
        means = np.where(members > 0, sums / np.maximum(members, 1), means).astype(np.float32)
    return means


def _evolved(
    anchors: FloatArray, sizes: FloatArray, threshold: float, generator: np.random.Generator, generations: int
) -> FloatArray:
    """Multiplied by random factors again and again; what makes them fitter stays."""
    logarithms = np.log(np.maximum(sizes, np.finfo(np.float32).tiny)).astype(np.float32).T.copy()
    best = _fitness(logarithms, anchors, threshold)
    for _ in range(generations):
        changed = np.maximum(anchors * _factors(anchors.shape, generator), _SMALLEST)
        fitness = _fitness(logarithms, changed, threshold)
        if fitness > best:
            anchors, best = changed, fitness
    return anchors


def _factors(shape: tuple[int, ...], generator: np.random.Generator) -> FloatArray:
    """Near 1, and not all of them 1."""
    while True:
        changing = generator.random(shape) < _CHANGED
        changes = _CHANGE * changing * generator.random() * generator.standard_normal(shape)
        factors: FloatArray = np.clip(1 + changes, _LEAST_FACTOR, _GREATEST_FACTOR)
        if (factors != 1).any():
            return factors


def _fitness(logarithms: Numbers, anchors: FloatArray, threshold: float) -> float:
    """That of ``coverage``, from the logarithms of widths and heights: ratios are then differences, which are quick."""
    sides = np.log(anchors).astype(np.float32).T[:, :, None]
    differences = np.abs(logarithms[:, None] - sides)
    nearest = np.maximum(differences[0], differences[1]).min(axis=0)
    near = nearest < np.log(threshold)
    return float(np.exp(-nearest[near]).sum() / len(nearest))
