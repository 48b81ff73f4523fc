"""Pictures as H x W x 3 RGB of uint8, the same way in training, prediction and serving.

* Turned as EXIF says. Of several frames or pages the first is taken. Colour profiles are not applied.
* Transparency is shown on white, as in a browser. Gray, palette and CMYK pictures become RGB.
* 16 bits a channel become 8 linearly, from the full range: 65535 is 255.
"""

from __future__ import annotations

import io
from os import PathLike, fspath

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_automl_vision.data.encoded import (
    Encoded,
    PictureFault,
    check_pixels,
    describe,
    exif_orientation,
    open_with_pillow,
    upright_tiff,
)
from lightning_automl_vision.data.stream_cache import image_bytes
from lightning_automl_vision.data.urls import local_path, without_query
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.samples import Pixels

_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
Sized = tuple[Pixels, tuple[int, int]]

_TRANSPARENT = frozenset(("LA", "PA", "La", "RGBA", "RGBa"))
_WHITE = 255


def read_image(image: str | PathLike[str], *, maximum_pixels: int, short_side: int | None = None) -> Pixels:
    """The picture at a path or URL; ``short_side`` lets a large JPEG come smaller, as ``decode_image`` says."""
    return read_sized(image, maximum_pixels=maximum_pixels, short_side=short_side)[0]


def read_sized(image: str | PathLike[str], *, maximum_pixels: int, short_side: int | None = None) -> Sized:
    """The same, with the width and height of the whole picture."""
    place = fspath(image)
    name = local_path(place) or without_query(place)
    return decode_sized(image_bytes(place), name=name, maximum_pixels=maximum_pixels, short_side=short_side)


def decode_image(data: bytes, *, name: str, maximum_pixels: int, short_side: int | None = None) -> Pixels:
    """The picture in a file's content; ``name`` is what an error calls it.

    With ``short_side`` a JPEG comes at a half, a quarter or an eighth of its size, if its short side is still at least
    that many pixels: its decoder then skips most of the work.
    """
    return decode_sized(data, name=name, maximum_pixels=maximum_pixels, short_side=short_side)[0]


def decode_sized(data: bytes, *, name: str, maximum_pixels: int, short_side: int | None = None) -> Sized:
    """The same, with the width and height of the whole picture."""
    try:
        encoded = describe(data)
        check_pixels(encoded, maximum_pixels)
        return _decoded(data, encoded, short_side), encoded.displayed
    except PictureFault as fault:
        raise DataError(f"{name}: {fault}.") from None


def pixels_of(image: Image.Image, *, maximum_pixels: int) -> Pixels:
    """A Pillow picture by the same rules."""
    width, height = image.size
    try:
        check_pixels(Encoded(width, height, 1, "pillow"), maximum_pixels)
        image.load()  # turns a TIFF, and then forgets that it had to be turned
        return turned(_rgb(image), exif_orientation(image.info.get("exif") or b""))
    except PictureFault as fault:
        raise DataError(f"The given picture {fault}.") from None
    except OSError as error:
        raise DataError(f"The given picture is damaged ({' '.join(str(error).split())}).") from None


def part_of(pixels: Pixels, window: Window) -> Pixels:
    """A window in whole pixels, as a picture of its own."""
    left, top, right, bottom = map(int, window)
    return pixels[top:bottom, left:right].copy()


def reduction(width: int, height: int, short_side: int | None) -> int:
    """The largest of 8, 4, 2, 1 that leaves the short side at least as long as asked."""
    if short_side is None:
        return 1
    shorter = min(width, height)
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or shorter >= factor * short_side)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as it is displayed, given how EXIF says it is stored."""
    if not 2 <= orientation <= 8:
        return pixels
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decoded(data: bytes, encoded: Encoded, short_side: int | None) -> Pixels:
    if encoded.codec == "pillow":
        return _by_pillow(data, encoded)
    if encoded.codec == "color":
        flags = _REDUCED[reduction(encoded.width, encoded.height, short_side)]
        return turned(_by_opencv(data, flags | cv2.IMREAD_IGNORE_ORIENTATION), encoded.orientation)
    if encoded.codec != "any":
        data = upright_tiff(data)
    pixels = _shallow(_by_opencv(data, cv2.IMREAD_UNCHANGED))
    if encoded.codec == "inverted":
        pixels = _WHITE - pixels
    return turned(_on_white(pixels), encoded.orientation)


def _by_opencv(data: bytes, flags: int) -> NDArray[np.uint8]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise PictureFault(f"cannot be decoded ({error.err or error.code})") from None
    if pixels is None:
        raise PictureFault("is damaged: its pixels cannot be decoded")
    return pixels  # type: ignore[return-value]


def _shallow(pixels: NDArray[np.uint8]) -> Pixels:
    """8 bits a channel; 65535 / 257 is 255."""
    if pixels.dtype == np.uint16:
        return cv2.convertScaleAbs(pixels, alpha=1 / 257).reshape(pixels.shape)  # type: ignore[return-value]
    return pixels


def _on_white(pixels: Pixels) -> Pixels:
    """RGB of what OpenCV gives: gray, BGR, or BGR with transparency."""
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]
    return _blended(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))  # type: ignore[arg-type]


def _blended(pixels: Pixels) -> Pixels:
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == _WHITE:
        return np.ascontiguousarray(pixels[..., :3])
    blended = (pixels[..., :3] * alpha + _WHITE * (_WHITE - alpha) + _WHITE // 2) // _WHITE
    return blended.astype(np.uint8)


def _by_pillow(data: bytes, encoded: Encoded) -> Pixels:
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            is_tiff = image.format == "TIFF"
            pixels = _rgb(image)
    except PictureFault:
        raise
    except Exception as error:  # each of Pillow's decoders raises exceptions of its own
        raise PictureFault(f"is damaged: its pixels cannot be decoded ({' '.join(str(error).split())})") from None
    return pixels if is_tiff else turned(pixels, encoded.orientation)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        return _rgb_of_integers(image)
    if image.mode == "F":
        raise PictureFault("has pixels of 32 bits: save it with 8 or 16 bits a channel")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        return _blended(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _rgb_of_integers(image: Image.Image) -> Pixels:
    """Gray of 16 bits, perhaps with one value that stands for transparency."""
    integers = np.asarray(image)
    if integers.size and not 0 <= integers.min() <= integers.max() <= 65535:
        raise PictureFault("has pixels of 32 bits or with a sign: save it with 8 or 16 bits a channel")
    gray = _shallow(integers.astype(np.uint16))
    if isinstance(transparent := image.info.get("transparency"), int):
        gray[integers == transparent] = _WHITE
    return np.repeat(gray[..., None], 3, axis=2)
