"""The size of every image before training starts: read from its header, in parallel, and remembered between runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from lightning_automl_vision.data.encoded import Encoded, PictureFault, describe, describe_file, pixel_fault
from lightning_automl_vision.data.header_cache import Known, load_known, store_known
from lightning_automl_vision.data.stream_cache import image_bytes, open_cache
from lightning_automl_vision.data.unanswered import Unanswered
from lightning_automl_vision.data.urls import local_path, read_fault, without_query
from lightning_automl_vision.errors import DataError, UnreachableError
from lightning_automl_vision.settings import DataConfig

T = TypeVar("T")

_CHUNK = 256
# More than there are cores: reading waits for the disk or the network, not for the processor.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The size of a picture as it is displayed, in pixels."""

    width: int
    height: int


class NoAnswer(str):
    """Why a picture cannot be used whose server did not answer for it, in words that follow its name."""

    __slots__ = ()


def read_headers(images: Sequence[str], config: DataConfig) -> list[ImageHeader | str]:
    """For each path or URL its header, or why it cannot be used, in words that follow its name.

    Of what lies on disk headers are remembered, by path, size and time of the last change. What lies elsewhere is kept
    on disk, all of it or as much as there is room for, as the configuration says. UnreachableError where servers do not
    answer for more than may be ignored.
    """
    local, remote = _places(images)
    known = load_known(config.cache, local.values()) if local else {}
    fresh: Known = {}
    found: dict[str, ImageHeader | str] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        answers = threads.map(lambda chunk: _read_local(chunk, known, fresh), _chunks(list(local.items()), _CHUNK))
        if remote:
            unanswered = Unanswered(images=len(local) + len(remote), ignore=config.ignore_data_errors)
            found.update(_read_remote(remote, config, threads, unanswered))
        for answer in answers:
            found.update(answer)
    if fresh:
        store_known(config.cache, local.values(), fresh)
    limit = config.maximum_image_pixels
    return [_within(found[image], limit) for image in images]


def _places(images: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Each image once: those on disk with their path, and the others."""
    local: dict[str, str] = {}
    remote: list[str] = []
    for image in dict.fromkeys(images):
        path = local_path(image)
        if path is None:
            remote.append(image)
        else:
            local[image] = path
    return local, remote


def _chunks(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _read_local(items: Sequence[tuple[str, str]], known: Known, fresh: Known) -> list[tuple[str, ImageHeader | str]]:
    return [(image, _header(path, known, fresh)) for image, path in items]


def _header(path: str, known: Known, fresh: Known) -> ImageHeader | str:
    try:
        status = os.stat(path)
        entry = known.get(path)
        if entry is not None and entry[0] == status.st_size and entry[1] == status.st_mtime_ns:
            return ImageHeader(entry[2], entry[3])
        if not stat.S_ISREG(status.st_mode):
            return "is a folder, not a file" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
        with open(path, "rb", buffering=0) as file:
            header = _displayed(describe_file(file, status.st_size))
    except PictureFault as fault:
        return str(fault)
    except (OSError, ValueError) as error:
        return read_fault(error)
    fresh[path] = (status.st_size, status.st_mtime_ns, header.width, header.height)
    return header


def _read_remote(
    images: Sequence[str], config: DataConfig, threads: Executor, unanswered: Unanswered
) -> Iterator[tuple[str, ImageHeader | str]]:
    untold = open_cache(images, config, threads)
    for image, header in zip(images, threads.map(_fetched, images), strict=True):
        if isinstance(header, NoAnswer):
            unanswered.add(image, header)
        elif image not in untold:
            unanswered.heard(image)
        yield image, header


def _fetched(image: str) -> ImageHeader | str:
    try:
        return _displayed(describe(image_bytes(image)))
    except PictureFault as fault:
        return str(fault)
    except DataError as error:
        words = str(error).removeprefix(without_query(image) + ": ").removesuffix(".")
        return NoAnswer(words) if isinstance(error, UnreachableError) else words


def _displayed(encoded: Encoded) -> ImageHeader:
    return ImageHeader(*encoded.displayed)


def _within(header: ImageHeader | str, limit: int) -> ImageHeader | str:
    if isinstance(header, str):
        return header
    return pixel_fault(header.width, header.height, limit) or header
