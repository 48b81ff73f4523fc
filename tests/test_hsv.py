"""Hue, saturation and brightness: the recorded pixels, and the same on a batch of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import recorded, shares

from lightning_automl_vision.hsv import drawn_gains, with_gains
from lightning_automl_vision.settings import HsvConfig
from lightning_automl_vision.training.hsv_on_device import hsv_on_device

GAINS = [(1.009, 0.72, 1.36), (1.0, 1.0, 1.0), (0.985, 1.7, 0.6), (1.015, 0.3, 1.4), (0.4, 1.9, 1.9), (2.0, 0.0, 0.5)]


def colours(count: int = 4096) -> np.ndarray:
    """Colours of all kinds, grays and pure ones among them."""
    pixels = np.floor(256 * shares("colours", 3 * count)).reshape(-1, 64, 3).astype(np.uint8)
    pixels[0] = np.arange(64, dtype=np.uint8)[:, None] * 4
    pixels[1, :8] = [[255 * (bits >> channel & 1) for channel in range(3)] for bits in range(8)]
    return pixels


def on_device(pixels: np.ndarray, gains: list[tuple[float, float, float]]) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(2, 0, 1).expand(len(gains), -1, -1, -1)
    return hsv_on_device(images, torch.tensor(gains)).permute(0, 2, 3, 1).numpy()


def test_pixels_are_the_recorded_ones() -> None:
    case = recorded()["hsv"]
    pixels = np.floor(256 * shares("hsvimg", 48)).reshape(4, 4, 3).astype(np.uint8)
    draws = np.array(case["draws_in_minus1_1"]) * (0.015, 0.7, 0.4) + 1
    np.testing.assert_allclose(draws, case["gains"])
    changed = with_gains(np.ascontiguousarray(pixels[..., ::-1]), tuple(case["gains"]))[..., ::-1]
    assert np.abs(changed.astype(int) - case["out_bgr"]).max() <= 1
    there = on_device(np.ascontiguousarray(pixels[..., ::-1]), [tuple(case["gains"])])[0, ..., ::-1]
    assert np.abs(there.astype(int) - case["out_bgr"]).max() <= 2


@pytest.mark.parametrize("gains", GAINS)
def test_a_device_gives_the_same(gains: tuple[float, float, float]) -> None:
    pixels = colours()
    expected = pixels if gains == (1, 1, 1) else with_gains(pixels, gains)
    off = np.abs(on_device(pixels, [gains])[0].astype(int) - expected)
    assert off.max() <= 2
    assert off.mean() < 0.1


def test_each_image_of_a_batch_has_its_own_factors() -> None:
    pixels = colours(1024)
    together = on_device(pixels, GAINS)
    for changed, gains in zip(together, GAINS, strict=True):
        assert (changed == on_device(pixels, [gains])[0]).all()
    assert (together[1] == pixels).all()


def test_a_picture_is_left_as_it_is_given() -> None:
    pixels = colours(1024)
    before = pixels.copy()
    assert (with_gains(pixels, (1.01, 0.5, 1.3)) != before).any()
    assert (pixels == before).all()


def test_brightness_and_saturation_do_what_they_say() -> None:
    pixels = np.full((8, 8, 3), (120, 60, 30), np.uint8)
    assert np.abs(with_gains(pixels, (1, 1, 0.5)).astype(int) - (60, 30, 15)).max() <= 1
    assert np.abs(with_gains(pixels, (1, 0, 1)).astype(int) - 120).max() <= 1
    assert with_gains(pixels, (1, 1, 9)).max() == 255


def test_factors_lie_around_one_as_far_as_allowed() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([drawn_gains(HsvConfig(p=1.0), generator) for _ in range(500)]) - 1
    spans = np.array([0.015, 0.7, 0.4])
    assert (np.abs(drawn) <= spans).all()
    assert (drawn.max(axis=0) > 0.95 * spans).all()
    assert (drawn.min(axis=0) < -0.95 * spans).all()
