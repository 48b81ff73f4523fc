"""Tiny labelled sets that a small network can learn: the class is the colour."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

COLOURS = {"blue": (220, 40, 40), "green": (40, 200, 40), "red": (40, 40, 220)}


def write_picture(path: Path, colour: tuple[int, int, int], random: np.random.Generator, side: int = 40) -> None:
    """A noisy picture of one colour, given as blue, green, red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.clip(random.normal(colour, 25, (side, side, 3)), 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), image)


def write_folders(folder: Path, per_class: int = 8) -> Path:
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for number in range(per_class):
            write_picture(folder / name / f"{number}.png", colour, random)
    return folder


def write_multilabel(folder: Path, count: int = 24) -> Path:
    """Pictures whose left and right halves have colours of their own; the labels are the colours."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        left, right = (str(name) for name in random.choice(list(COLOURS), 2))
        halves = [np.full((40, 20, 3), COLOURS[name], np.float64) for name in (left, right)]
        image = np.clip(np.hstack(halves) + random.normal(0, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(json.dumps({"image_url": f"{number}.png", "label": sorted({left, right})}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def write_objects(folder: Path, count: int = 16, side: int = 96, polygons: bool = False) -> Path:
    """Bright rectangles of two colours, and discs of a third, on dark noise; every sixth picture shows none."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        image = random.normal(40, 10, (side, side, 3))
        objects: list[dict[str, object]] = []
        for corner in random.permutation(4)[: 0 if number % 6 == 5 else 1 + number % 3]:
            width, height = random.integers(side // 4, side // 2 - 4, 2)
            left, top = (int(corner) % 2) * side // 2 + 2, (int(corner) // 2) * side // 2 + 2
            name = str(random.choice(list(COLOURS)))
            outline = _outline(name, left, top, int(width), int(height))
            cv2.fillPoly(image, [outline.round().astype(np.int32)], COLOURS[name])
            objects.append({"label": name, **_shape(outline / side, polygons)})
        image = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(json.dumps({"image_url": f"{number}.png", "label": objects}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def _outline(name: str, left: int, top: int, width: int, height: int) -> np.ndarray:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    if name == "red":
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = 0.5 + 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return corners * (width, height) + (left, top)


def _shape(shares: np.ndarray, polygons: bool) -> dict[str, object]:
    if polygons:
        return {"polygon": [shares.ravel().tolist()]}
    (left, top), (right, bottom) = shares.min(axis=0).tolist(), shares.max(axis=0).tolist()
    return {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}
