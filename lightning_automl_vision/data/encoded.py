"""What the first and last bytes of a picture say of it, before its pixels are decoded.

JPEG and PNG are read here, every other format by Pillow. A PictureFault is worded to follow the file's name.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

# Named, so that Pillow never starts other programs (PostScript) and reads the same formats wherever it is installed.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000")
ENDS = 1 << 16
"""How much of a file's beginning and end is usually enough."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_OPENING = threading.Lock()


class PictureFault(Exception):
    """Why a picture cannot be used, such as ``is truncated``."""


class _MoreNeededError(Exception):
    """The bytes in hand end before what describes the picture does."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is stored; ``orientation`` is EXIF's, from 1 to 8.

    ``codec`` says how it is decoded: ``color`` by OpenCV as 8-bit colour; ``any`` by OpenCV with depth and transparency
    as they are, ``tiff`` and ``inverted`` likewise from a TIFF, the latter with white as 0; ``pillow`` by Pillow, which
    turns a TIFF by itself.
    """

    width: int
    height: int
    orientation: int
    codec: str

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height once it is turned."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def describe(data: bytes) -> Encoded:
    """What a whole file says; PictureFault if it is no picture, or not a whole one."""
    return describe_ends(data, data, io.BytesIO(data), len(data))


def describe_file(file: BinaryIO, size: int) -> Encoded:
    """The same from an open file, of which as little as possible is read."""
    head = file.read(ENDS)
    if size <= 2 * ENDS:  # so that the end read below is behind all that the beginning describes
        return describe(head + file.read())
    file.seek(size - ENDS)
    tail = file.read(ENDS)
    try:
        file.seek(0)
        return describe_ends(head, tail, file, size)
    except _MoreNeededError:
        file.seek(0)
        return describe(file.read())


def describe_ends(head: bytes, tail: bytes, file: BinaryIO, size: int) -> Encoded:
    if not head:
        raise PictureFault("is empty")
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(head, tail)
        if head.startswith(_PNG):
            return _png(head, tail)
    except (_MoreNeededError, IndexError, struct.error):
        if len(head) < size:
            raise _MoreNeededError from None
        raise PictureFault("is truncated") from None
    return _other(file, size)


def _jpeg(head: bytes, tail: bytes) -> Encoded:
    frame, orientation, position = None, 0, 2
    while True:
        position = _next_marker(head, position)
        marker = head[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):
            break
        (length,) = struct.unpack_from(">H", head, position + 2)
        if marker in _FRAMES:
            frame = (marker, *struct.unpack_from(">BHHB", head, position + 4))
        elif marker == 0xE1 and not orientation and head[position + 4 : position + 10] == b"Exif\0\0":
            orientation = exif_orientation(_part(head, position + 10, length - 8))
        position += 2 + length
    if tail.rfind(b"\xff\xd9", position if tail is head else 0) < 0:
        raise _MoreNeededError
    if frame is None:
        raise PictureFault("is a damaged JPEG file: it says no size")
    kind, precision, height, width, components = frame
    usual = kind <= 0xC2 and precision == 8 and components in (1, 3)
    return _sized(width, height, orientation or 1, "color" if usual else "pillow")


def _next_marker(head: bytes, position: int) -> int:
    """Decoders skip stray bytes between two segments."""
    found = head.find(b"\xff", position)
    if found < 0:
        raise _MoreNeededError
    return found


def _png(head: bytes, tail: bytes) -> Encoded:
    width, height, depth, color = struct.unpack_from(">IIBB", head, 16)
    orientation, transparent, position = 0, False, 8
    while True:
        length, kind = struct.unpack_from(">I4s", head, position)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf":
            orientation = exif_orientation(_part(head, position + 8, length))
        transparent = transparent or kind == b"tRNS"
        position += 12 + length
    if tail.rfind(_PNG_END) < 0:
        raise _MoreNeededError
    usual = depth in (8, 16) and color != 3 and not transparent
    return _sized(width, height, orientation or _late_orientation(tail[-ENDS:]), "any" if usual else "pillow")


def _late_orientation(tail: bytes) -> int:
    """Some programs write the EXIF block behind the pixels; its checksum tells it from pixels that look alike."""
    start = tail.rfind(b"eXIf")
    if start < 4:
        return 1
    (length,) = struct.unpack_from(">I", tail, start - 4)
    end = start + 4 + length
    if tail[end : end + 4] != struct.pack(">I", zlib.crc32(tail[start:end])):
        return 1
    return exif_orientation(tail[start + 4 : end])


def _part(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise _MoreNeededError
    return data[start : start + length]


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; 1, upright, if it gives none that is valid."""
    block = block.removeprefix(b"Exif\0\0")
    found = _orientation_entry(block)
    if found is None:
        return 1
    form, position = found
    (value,) = struct.unpack_from(form, block, position)
    return int(value) if 1 <= value <= 8 else 1


def upright_tiff(data: bytes) -> bytes:
    """The same file with orientation 1: what decoders make of another differs between versions of OpenCV."""
    found = _orientation_entry(data)
    if found is None:
        return data
    form, position = found
    return data[:position] + struct.pack(form, 1) + data[position + struct.calcsize(form) :]


def _orientation_entry(block: bytes) -> tuple[str, int] | None:
    """The form and place of the orientation in the first directory of a TIFF, which an EXIF block is too."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for position in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, _ = struct.unpack_from(order + "HHII", block, position)
            if tag == 0x0112:
                return order + ("I" if kind == 4 else "H"), position + 8
    except struct.error:
        return None
    return None


def open_with_pillow(file: BinaryIO) -> ImageFile.ImageFile:
    """The picture with only its header read, whatever its size: the limit on pixels is the caller's own."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise PictureFault(f"is not an image in a known format ({', '.join(_SHOWN)})") from None
        except Exception as error:  # each of Pillow's formats raises exceptions of its own on damaged files
            raise PictureFault(f"is a damaged image ({' '.join(str(error).split())})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_SHOWN = ("JPEG", "PNG", "TIFF", "WebP", "BMP", "GIF", "PPM", "JPEG 2000")


def _other(file: BinaryIO, size: int) -> Encoded:
    with open_with_pillow(file) as image:
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
            raise PictureFault("has pixels of 32 bits or with a sign: save it with 8 or 16 bits a channel")
        if image.format == "TIFF":
            return _tiff(image, size)
        if _ends_early(image, file, size):
            raise PictureFault("is truncated")
        return _sized(*image.size, exif_orientation(image.info.get("exif") or b""), "pillow")


def _tiff(image: ImageFile.ImageFile, size: int) -> Encoded:
    tags = image.tag_v2  # type: ignore[attr-defined]
    offsets, counts = (tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or ())
    if any(offset + count > size for offset, count in zip(offsets, counts, strict=False)):
        raise PictureFault("is truncated")
    orientation = tags.get(274, 1)
    deep = set(tags.get(258, (1,))) == {16} and tags.get(262) in (0, 1, 2)
    codec = "pillow" if not deep else "inverted" if tags[262] == 0 else "tiff"
    return _sized(tags[256], tags[257], orientation if 1 <= orientation <= 8 else 1, codec)


def _ends_early(image: ImageFile.ImageFile, file: BinaryIO, size: int) -> bool:
    if image.format == "WEBP":
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 > size
    if image.format == "GIF":
        file.seek(image.tile[0].offset)
        return not _blocks_end(file.read())
    for codec, box, offset, arguments in image.tile:
        if codec == "raw" and isinstance(arguments, tuple) and len(arguments) > 1 and box is not None:
            return bool(offset + arguments[1] * (box[3] - box[1]) > size)
    return False


def _blocks_end(data: bytes) -> bool:
    """Whether a GIF's first frame is whole: blocks, each with its length in front, until an empty one."""
    position = 0
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return position < len(data)


def _sized(width: int, height: int, orientation: int, codec: str) -> Encoded:
    if not width or not height:
        raise PictureFault(f"is a damaged image of {width} x {height} pixels")
    return Encoded(width, height, orientation, codec)


def check_pixels(encoded: Encoded, maximum: int) -> None:
    """Raise PictureFault for a picture that would need too much memory."""
    width, height = encoded.displayed
    fault = pixel_fault(width, height, maximum)
    if fault:
        raise PictureFault(fault)


def pixel_fault(width: int, height: int, maximum: int) -> str | None:
    if width * height <= maximum:
        return None
    return (
        f"has {width} x {height} = {width * height} pixels, more than data.maximum_image_pixels={maximum}; "
        "raise that if the picture can be trusted"
    )
