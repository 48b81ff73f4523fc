"""Files that appear whole or not at all, and what is said where there is no room for them; imports no torch."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeGuard

from lightning_automl_vision.errors import StorageError, VisionError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path, key: str = "output_dir") -> Iterator[Path]:
    """A name beside ``path`` to write to: it takes the place of ``path`` when all is written, or else vanishes."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    with writing(path, key):
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, key: str = "output_dir") -> Iterator[None]:
    """StorageError where the system refuses what is written; other errors are none of its business.

    ``key`` is the one that names another place.
    """
    try:
        yield
    except VisionError:
        raise
    except Exception as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise unwritable(path, fault, key) from error


@contextmanager
def folder_for_work(folder: Path, key: str = "output_dir") -> Iterator[None]:
    """Made before the work, so that a place that cannot be written to is told first; what stays empty goes again."""
    missing = missing_of(folder)
    with writing(folder, key):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        yield
    finally:
        remove_empty(missing)


def missing_of(folder: Path) -> list[Path]:
    """Of the folder and those above it what is not there, the lowest first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # there is something in it
            folder.rmdir()


def share(path: Path) -> None:
    """What was made for this user alone is read by whoever may read any other file."""
    path.chmod(0o666 & ~umask())


def umask() -> int:
    """The process's mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def unreadable(path: Path, fault: OSError) -> str:
    """The line for a model's file that is there and may not be read."""
    reason = (fault.strerror or str(fault)).lower()
    return f"{path} cannot be read: {reason}. Its owner allows it with chmod a+r; or copy the model folder again."


def sampled(path: Path | str, count: int, length: int) -> bytes:
    """The whole of a small file; of a large one so many pieces of this length, the first and the last among them."""
    with open(path, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= count * length:
            return stream.read()
        parts = []
        for number in range(count):
            stream.seek(number * (size - length) // (count - 1))
            parts.append(stream.read(length))
    return b"".join(parts)


def append(path: Path, text: str) -> None:
    """The whole text, or nothing of it."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        end = file.tell()
        try:
            file.write(text)
            file.flush()
        except OSError:
            os.truncate(path, end)
            raise


def unwritable(path: Path, fault: OSError, key: str = "output_dir") -> StorageError:
    """The line for a file that cannot be written; where there is no room it says how much there is."""
    reason = (fault.strerror or str(fault)).lower()
    if not is_full(fault):
        return StorageError(f"{path} cannot be written: {reason}. Name a folder that can be: {key}=PATH.")
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    return StorageError(
        f"{path} cannot be written: {reason}, {_in_words(shutil.disk_usage(folder).free)} are free."
        f" Make room, or name a folder on another disk: {key}=PATH."
    )


def storage_fault(error: BaseException) -> OSError | None:
    """What the system said: torch and safetensors put words of their own around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        if number := re.search(r"\(os error (\d+)\)", str(seen)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        seen = seen.__cause__ or seen.__context__
    return None


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether the system had no room."""
    return isinstance(error, OSError) and error.errno in _FULL


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
