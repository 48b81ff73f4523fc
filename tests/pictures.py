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
