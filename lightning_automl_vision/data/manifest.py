"""What tells labelled images from any others: a hash of every name, every label and every picture."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.urls import local_path, read_bytes
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.samples import Boxes, Labels, Masks
from lightning_automl_vision.storage import sampled

# Of so many images at most it is kept which is which, in 16 characters each.
LARGEST_NAMED = 50_000
_DIGEST = 16
_SHORT = 4
_CHUNK = 64
_MOST_THREADS = 8
# Of a picture's file so many pieces of so many bytes tell it from others.
_PIECES, _PIECE = 4, 512


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hashes of one set in its order; of pictures ``at_urls`` only name and size are known.

    ``each`` holds a few bytes of the three hashes of each image, to say which one differs; it is empty for large sets.
    """

    images: int
    names: str
    labels: str
    pictures: str
    at_urls: int = 0
    each: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def rows(self) -> list[tuple[bytes, bytes, bytes]]:
        """Name, labels and picture of each image, shortened."""
        content = base64.b64decode(self.each)
        parts = [content[start : start + _SHORT] for start in range(0, len(content), _SHORT)]
        return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))


def manifest_of(images: LabelledImages[Any]) -> Manifest:
    """Reads every picture that lies on disk, each once, in several threads."""
    names = [_digest(images.name(index).encode()) for index in range(len(images))]
    labels = [_of_labels(sample.target, images.classes) for sample in images.samples]
    pictures = _of_pictures(images)
    rows = zip(names, labels, pictures, strict=True) if len(images) <= LARGEST_NAMED else ()
    return Manifest(
        images=len(images),
        names=_of_all(names),
        labels=_of_all([*labels, *(name.encode() for name in images.classes)]),
        pictures=_of_all(pictures),
        at_urls=sum(local_path(sample.image) is None for sample in images.samples),
        each=base64.b64encode(b"".join(part[:_SHORT] for row in rows for part in row)).decode(),
    )


def difference(was: Manifest, now: Manifest, images: LabelledImages[Any]) -> str | None:
    """What has changed first, in words that follow the name of the set; ``images`` are those of ``now``."""
    same = {name: getattr(was, name) == getattr(now, name) for name in ("names", "labels", "pictures")}
    if all(same.values()):
        return None
    pairs = zip(was.rows, now.rows, strict=False)
    place = next((place for place, (before, after) in enumerate(pairs) if before != after), None)
    if place is not None:
        return _in_words(place, was.rows[place], now.rows[place], images)
    if was.images != now.images:
        return f"it had {was.images} images, and has {now.images}"
    changed = " and ".join(name for name, unchanged in same.items() if not unchanged)
    return f"not all of its {changed} are those that they were"


def _in_words(place: int, was: Sequence[bytes], now: Sequence[bytes], images: LabelledImages[Any]) -> str:
    name, line = images.name(place), images.samples[place].line
    if was[0] != now[0]:
        return f"another image stood where {name} stands, number {place + 1} of {len(images)}"
    if was[1] != now[1]:
        return f"the labels of {name} have changed{f' (line {line})' if line else ''}"
    return f"the picture {name} has changed"


def fingerprint(*sets: LabelledImages[Any]) -> str:
    """Of the classes and, in order, each image's name, its labels and, where it lies on disk, pieces of its picture.

    What is enough to tell a training that it goes on with what it began with, long before every byte is read.
    """
    found = hashlib.sha256()
    with ThreadPoolExecutor(_MOST_THREADS) as threads:
        for images in sets:
            found.update(repr(list(images.classes)).encode())
            for image, samples in groupby(images.samples, key=attrgetter("image")):
                found.update(image.encode())
                for sample in samples:
                    found.update(_of_labels(sample.target, images.classes))
            photos = (image for image, _ in groupby(sample.image for sample in images.samples))
            while block := [*islice(photos, _CHUNK * _MOST_THREADS)]:
                chunks = [block[start : start + _CHUNK] for start in range(0, len(block), _CHUNK)]
                for part in threads.map(_glance, chunks):
                    found.update(part)
    return found.hexdigest()


def _glance(images: Sequence[str]) -> bytes:
    """Of a picture that cannot be read nothing: whoever needs it says so."""
    found = hashlib.sha256()
    for image in images:
        with suppress(OSError):
            if path := local_path(image):
                found.update(sampled(path, _PIECES, _PIECE))
        found.update(b"|")
    return found.digest()


def digest_of_file(path: str | Path) -> str:
    return _digest(read_bytes(str(path))).hex()


def _of_pictures(images: LabelledImages[Any]) -> list[bytes]:
    """Of contents; where a picture lies elsewhere, of its size, as far as that is known."""
    local = list(dict.fromkeys(sample.image for sample in images.samples if local_path(sample.image) is not None))
    chunks = (local[start : start + _CHUNK] for start in range(0, len(local), _CHUNK))
    with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as threads:
        digests = [digest for chunk in threads.map(_read_all, chunks) for digest in chunk]
    known = dict(zip(local, digests, strict=True))
    return [known.get(sample.image) or _of_size(images, index) for index, sample in enumerate(images.samples)]


def _read_all(paths: Sequence[str]) -> list[bytes]:
    return [_digest(read_bytes(path)) for path in paths]


def _of_size(images: LabelledImages[Any], index: int) -> bytes:
    header = images.headers[index] if images.headers else None
    return _digest(b"" if header is None else f"{header.width}x{header.height}".encode())


def _of_labels(target: Labels, classes: Sequence[str]) -> bytes:
    """By the names of classes, and with every digit of boxes and polygons."""
    found = hashlib.blake2b(digest_size=_DIGEST)
    found.update(repr([classes[index] for index in target.labels]).encode())
    if isinstance(target, Boxes):
        found.update(np.ascontiguousarray(target.boxes).tobytes())
        found.update(np.ascontiguousarray(target.crowd).tobytes())
    if isinstance(target, Masks):
        for part in (part for parts in target.polygons for part in (*parts, None)):
            found.update(b"|" if part is None else repr(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return found.digest()


def _of_all(digests: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=_DIGEST)
    for digest in digests:
        found.update(len(digest).to_bytes(4, "little") + digest)
    return found.hexdigest()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_DIGEST]  # which processors of today have units for
