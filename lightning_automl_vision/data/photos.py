"""Decoded images, kept while their windows are looked at."""

from __future__ import annotations

from collections import OrderedDict

from lightning_automl_vision.data.images import read_image
from lightning_automl_vision.samples import Pixels


class Photos:
    """Reads images; the least recently used are forgotten when more bytes are held than may be, but for the last."""

    def __init__(self, most_bytes: int, *, maximum_pixels: int) -> None:
        self._most_bytes = most_bytes
        self._maximum_pixels = maximum_pixels
        self._held: OrderedDict[str, Pixels] = OrderedDict()
        self._bytes = 0

    def __contains__(self, image: str) -> bool:
        return image in self._held

    def __getitem__(self, image: str) -> Pixels:
        """Not to be written to."""
        if image in self._held:
            self._held.move_to_end(image)
            return self._held[image]
        pixels = read_image(image, maximum_pixels=self._maximum_pixels)
        self._held[image] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._most_bytes and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return pixels
