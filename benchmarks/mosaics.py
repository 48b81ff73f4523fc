"""Mosaics of 640 pixels from photos in memory: ``python benchmarks/mosaics.py`` prints what one core makes a second.

The plain recipe pastes resized photos on a canvas of twice the side and warps that; the product's transform also moves
and drops the objects, and mirrors half of the pictures. Cases are interleaved; minimum and median of CPU milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from lightning_automl_vision.affine import affine_matrix, drawn_change
from lightning_automl_vision.data.prepared import Labelled
from lightning_automl_vision.data.resizing import LongSide
from lightning_automl_vision.hsv import drawn_gains, with_gains
from lightning_automl_vision.mosaic import drawn_centre, four_tiles, loaded_size
from lightning_automl_vision.object_augment import ObjectTransform, build_object_transform
from lightning_automl_vision.samples import Boxes, Pixels
from lightning_automl_vision.settings import AffineConfig, ExpandConfig, HsvConfig, MosaicConfig, ObjectAugmentConfig
from lightning_automl_vision.settings import ObjectCropConfig as CropConfig

SIDE = 640
USUAL = AffineConfig(p=1.0)
TURNED = AffineConfig(p=1.0, degrees=10, shear=5)
HSV = HsvConfig(p=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    for width, height in ((500, 375), (640, 480), (1600, 1200)):
        photos = [photo(number, width, height) for number in range(16)]
        print(f"\nPhotos of {width} x {height}, eight objects each")
        for title, affine in (("scale and shift", USUAL), ("turn and slant too", TURNED)):
            compare(title, photos, affine, rounds)


def compare(title: str, photos: list[Labelled], affine: AffineConfig, rounds: int) -> None:
    ours, with_hsv = transform(affine, HsvConfig()), transform(affine, HSV)
    cases: Mapping[str, Callable[[int], Any]] = {
        "plain recipe": lambda seed: painted(photos, affine, seed),
        "product": lambda seed: made(ours, photos, seed),
        "plain recipe, hsv": lambda seed: coloured(painted(photos, affine, seed), seed),
        "product, hsv": lambda seed: made(with_hsv, photos, seed),
    }
    times = measured(cases, rounds)
    print(f"{title:28}{'min ms':>8}{'median':>8}{'a second':>10}{'x plain':>9}")
    for name, values in times.items():
        least, middle = min(values) * 1e3, statistics.median(values) * 1e3
        plain = statistics.median(times["plain recipe, hsv" if "hsv" in name else "plain recipe"]) * 1e3
        print(f"  {name:26}{least:8.2f}{middle:8.2f}{1e3 / middle:10.0f}{plain / middle:9.2f}")


def measured(cases: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for seed in range(-3, rounds):
        for name, case in cases.items():
            started = time.thread_time()
            case(abs(seed))
            if seed >= 0:
                times[name].append(time.thread_time() - started)
    return times


def photo(number: int, width: int, height: int) -> Labelled:
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    corners = generator.uniform(0, 0.7, (8, 2))
    boxes = np.hstack([corners, corners + generator.uniform(0.05, 0.3, (8, 2))])
    target = Boxes(labels=np.arange(8), boxes=boxes, crowd=np.zeros(8, np.bool_))
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), target  # type: ignore[return-value]


def transform(affine: AffineConfig, hsv: HsvConfig) -> ObjectTransform:
    augment = ObjectAugmentConfig(
        mosaic=MosaicConfig(p=1.0), affine=affine, hsv=hsv, crop=CropConfig(p=0.0), expand=ExpandConfig(p=0.0)
    )
    return build_object_transform(augment, LongSide(SIDE))


def made(transform: ObjectTransform, photos: list[Labelled], seed: int) -> Pixels:
    first, *others = (photos[(4 * seed + index) % len(photos)] for index in range(4))
    return transform(*first, (0, 0, seed, 0), others).pixels


def painted(photos: list[Labelled], affine: AffineConfig, seed: int) -> Pixels:
    """The same draws, without any object."""
    generator = np.random.default_rng((0, 0, seed, 0))
    centre = drawn_centre(SIDE, generator)
    chosen = [photos[(4 * seed + index) % len(photos)][0] for index in generator.permutation(4)]
    generator.random()
    change = drawn_change(affine, generator)
    sizes = [loaded_size(pixels.shape[1], pixels.shape[0], SIDE) for pixels in chosen]
    canvas = np.full((2 * SIDE, 2 * SIDE, 3), 114, np.uint8)
    for pixels, size, tile in zip(chosen, sizes, four_tiles(sizes, centre, SIDE), strict=True):
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        left, top, right, bottom = (int(value) for value in tile.region)
        x, y = int(tile.place.left), int(tile.place.top)
        canvas[top:bottom, left:right] = resized[top - y : bottom - y, left - x : right - x]
    matrix = affine_matrix(change, (2 * SIDE, 2 * SIDE), (SIDE, SIDE))
    return cv2.warpAffine(canvas, matrix[:2], (SIDE, SIDE), borderValue=(114,) * 3)  # type: ignore[return-value]


def coloured(pixels: Pixels, seed: int) -> Pixels:
    return with_gains(pixels, drawn_gains(HSV, np.random.default_rng(seed)))


if __name__ == "__main__":
    main()
