"""The recorded values of tests/data/yolov5_parity.json, and the deterministic numbers that its inputs are made of."""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data" / "yolov5_parity.json"


@cache
def recorded():
    return json.loads(FILE.read_text(encoding="utf-8"))


def shares(name, count):
    """``count`` float64 in [0, 1) that depend on the name alone."""
    with np.errstate(over="ignore"):
        value = np.uint32(zlib.crc32(name.encode())) + np.uint32(0x9E3779B9) * np.arange(count, dtype=np.uint32)
        value ^= value >> np.uint32(16)
        value *= np.uint32(0x85EBCA6B)
        value ^= value >> np.uint32(13)
        value *= np.uint32(0xC2B2AE35)
        value ^= value >> np.uint32(16)
    return value / 4294967296


def signed(name, count):
    """The same in [-1, 1)."""
    return 2 * shares(name, count) - 1


def rounded(values):
    """Through float32 and back."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def assert_recorded(values, entry, *, relative=1e-9, absolute=1e-9):
    """A tensor has the recorded shape, moments and values; the probe tells a permutation."""
    values = np.asarray(values, dtype=np.float64)
    assert list(values.shape) == entry["shape"]
    flat = values.ravel()
    seen = {
        "mean": flat.mean(),
        "std": flat.std(),
        "min": flat.min(),
        "max": flat.max(),
        "abssum": np.abs(flat).sum(),
        "probe": (flat * signed("probe", flat.size)).sum(),
    }
    # Sums of many values differ by the order of summation.
    scale = max(np.abs(flat).sum(), 1.0)
    for name, value in seen.items():
        tolerance = relative * (scale if name in ("abssum", "probe") else max(abs(entry[name]), 1.0)) + absolute
        assert abs(value - entry[name]) <= tolerance, (name, value, entry[name])
    for index, value in entry["values"].items():
        np.testing.assert_allclose(flat[int(index)], value, rtol=relative, atol=absolute, err_msg=index)
