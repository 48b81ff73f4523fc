"""Run-length encoded masks as COCO writes them: runs of zeros and ones in turn, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_automl_vision.samples import BoolArray


def decode(encoded: dict[str, Any]) -> BoolArray:
    """The mask; ValueError says what is wrong with the encoding."""
    size, counts = encoded.get("size"), encoded.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"its size is {size!r}, not [height, width]")
    if isinstance(counts, str):
        counts = decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its counts are neither a text nor a list of lengths")
    height, width = size
    if sum(counts) != height * width:
        raise ValueError(f"its counts add up to {sum(counts)}, not to {width}x{height}={height * width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def decompress(text: str) -> list[int]:
    """Lengths of five bits a character, low bits first; from the third on, differences to the one before the last."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        while True:
            if position >= len(text):
                raise ValueError("its counts end in the middle of a number")
            bits = ord(text[position]) - 48
            if not 0 <= bits < 64:
                raise ValueError(f"its counts hold {text[position]!r}, which is no part of the encoding")
            position += 1
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                break
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def compress(counts: Sequence[int]) -> str:
    """The inverse of `decompress`."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr((bits | 32 if more else bits) + 48))
    return "".join(text)
