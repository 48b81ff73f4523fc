"""Random factors for hue, saturation and brightness, in the 8 bits that OpenCV keeps each of them in."""

from __future__ import annotations

import cv2
import numpy as np

from lightning_automl_vision.samples import Pixels
from lightning_automl_vision.settings import HsvConfig

Gains = tuple[float, float, float]
HUES = 180
"""Steps of two degrees around the circle of colours."""


def drawn_gains(hsv: HsvConfig, generator: np.random.Generator) -> Gains:
    """Factors around 1 of hue, saturation and brightness."""
    hue, saturation, value = generator.uniform(-1, 1, 3) * (hsv.hue, hsv.saturation, hsv.value) + 1
    return float(hue), float(saturation), float(value)


def with_gains(pixels: Pixels, gains: Gains) -> Pixels:
    """RGB to RGB; hues go around in a circle, the other two end at 255, and what is between two steps is cut off."""
    steps = np.arange(256, dtype=np.float64)[:, None] * gains
    steps[:, 0] %= HUES
    table = steps.clip(0, 255).astype(np.uint8)[None]
    changed = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    cv2.LUT(changed, table, dst=changed)
    return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB, dst=changed)  # type: ignore[return-value]
