"""Generates a small labelled set of shapes, finds a model for it in three minutes, and uses the model.

python examples/quickstart.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

import lightning_automl_vision as lav

SHAPES = ("circle", "square", "triangle")
SIDE = 96


def draw(shape: str, random: np.random.Generator) -> np.ndarray:
    """One shape of a random bright colour, size and place on a dark, noisy background."""
    image = np.full((SIDE, SIDE, 3), random.integers(0, 90, 3), np.uint8)
    color = tuple(int(value) for value in random.integers(150, 256, 3))
    radius = int(random.integers(16, 34))
    x, y = (int(value) for value in random.integers(radius, SIDE - radius, 2))
    if shape == "circle":
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
    elif shape == "square":
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), color, -1)
    else:
        corners = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], np.int32)
        cv2.fillPoly(image, [corners], color, cv2.LINE_AA)
    noise = random.normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def generate(folder: Path, per_class: int = 100) -> Path:
    """Pictures in a folder for each class."""
    random = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            cv2.imwrite(str(folder / shape / f"{number:03}.png"), draw(shape, random))
    return folder


def main(folder: Path) -> None:
    photos = generate(folder / "photos")
    sweep = folder / f"sweep-{1 + len(list(folder.glob('sweep-*')))}"
    words = [
        f"data.training={photos}",
        "data.split=stratified",
        "model.pretrained=false",  # nothing is downloaded
        "limits.max_trials=4",
        "limits.timeout_minutes=4",
        f"output_dir={sweep}",
    ]
    print("lav", *words, flush=True)
    subprocess.run([sys.executable, "-m", "lightning_automl_vision", *words], check=True)
    example = photos / "circle" / "000.png"
    best = lav.load(sweep / "best").predict([example])[0]
    print(f"\nThe model is in {sweep}/best/model")
    print(f"It says of {example}: {best.label} ({best.score:.2f})")
    print("Use it from Python:")
    print(f'  import lightning_automl_vision as lav; lav.load("{sweep}/best").predict(["photo.jpg"])')


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
