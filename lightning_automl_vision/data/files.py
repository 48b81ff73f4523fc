"""Label files, from disk or from any URL."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, NoReturn

from lightning_automl_vision.data.urls import read_bytes, read_fault
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.settings import DataConfig

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".mpo",
        ".gif",
        ".dib",
        ".ppm",
        ".pgm",
        ".jp2",
    )
)
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))


def open_bytes(file: str) -> BinaryIO:
    if "://" in file:
        return io.BytesIO(read_bytes(file))
    try:
        return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Check the path.") from None


def folder_of(file: str, config: DataConfig) -> str:
    """What relative image names start from: ``data.images``, or the label file's own folder."""
    folder = config.images or os.path.dirname(file)
    return folder if "://" in folder else os.path.abspath(folder)


def beginning(file: str) -> bytes:
    """Enough of a file to tell its form by."""
    if "://" not in file and not os.path.isfile(file):
        return b""
    with open_bytes(file) as stream:
        return stream.read(1 << 16)


def read_text(file: str, encoding: str) -> str:
    """The whole text without its byte-order mark."""
    with open_bytes(file) as stream:
        content = stream.read()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{line}: byte {content[error.start]:#04x} is not {encoding}. "
            "Save the file as UTF-8 or name its encoding, such as data.encoding=latin-1."
        ) from None
    except LookupError:
        raise ConfigError(f"data.encoding={encoding}: no such encoding. Use a name such as utf-8 or latin-1.") from None


def closed_folder(fault: OSError) -> DataError:
    """For a folder that is there and may not be looked into."""
    folder = fault.filename
    return DataError(f"{folder}: the folder {read_fault(fault)}. Allow it with chmod a+rx {folder}, or take it away.")


def _refuse(fault: OSError) -> NoReturn:
    raise closed_folder(fault) from None


def files_below(folder: str, suffixes: frozenset[str], closed: Callable[[OSError], object] = _refuse) -> Iterator[str]:
    """Names relative to the folder, in order; hidden files and folders are left out, ``closed`` ones told."""
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.relpath(os.path.join(parent, name), folder)


def files_in(folder: str, suffixes: frozenset[str]) -> list[str]:
    """Names of the folder's own files, in order."""
    return sorted(
        entry.name
        for entry in _entries(folder)
        if os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file()
    )


def folders_in(folder: str) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is not hidden in a folder, if it is one."""
    if not os.path.isdir(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as fault:
        _refuse(fault)
