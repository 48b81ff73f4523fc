"""Pictures from elsewhere, kept on this machine's disk for all processes that read them.

A picture is taken in as long as there is room, and then stays: of a data set that is gone through again and again the
share that was kept is found again, where a cache that makes room for the newest finds next to nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lightning_automl_vision.data.header_cache import cache_folder
from lightning_automl_vision.data.prefetch import Prefetch
from lightning_automl_vision.data.urls import Described, described, is_down, local_path, read_bytes
from lightning_automl_vision.errors import StorageError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import DataConfig

_MEGABYTE = 10**6
_LEDGER = "bytes"
_PART = ".part"
_HOUR = 3600.0
# What is left to others of a disk whose share of the cache nobody has named.
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True, kw_only=True)
class ImageCache:
    """A folder of whole files by the hash of their URL, which holds ``most_bytes`` at most, whoever writes to it.

    How many there are stands in a file that is locked while it is changed. Where ``all_must_fit`` a picture that there
    is no room for is an error; else it is read again when it is asked for again.
    """

    folder: Path
    most_bytes: int
    all_must_fit: bool = False
    is_limited: bool = False

    def opened(self) -> ImageCache:
        """Rid of what killed processes left, and with the bytes counted anew."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._ledger() as ledger:
                ledger.write(sum(_sizes(self.folder)))
        except OSError as error:
            if self.all_must_fit:
                raise StorageError(
                    f"{self.folder} cannot be made or written ({error.strerror}). Name another folder: data.cache=PATH."
                ) from None
            LOG.warning("%s cannot hold pictures (%s): each is read anew.", self.folder, error.strerror)
        return self

    def find(self, url: str) -> bytes | None:
        try:
            return self._path(url).read_bytes() or None  # a crash of the machine may leave empty files
        except OSError:
            return None

    def holds(self, url: str) -> bool:
        return self._path(url).exists()

    def keep(self, url: str, content: bytes) -> bool:
        """Whether there was room for it; it is there whole or not at all."""
        try:
            return self._kept(self._path(url), content)
        except OSError as error:
            if self.all_must_fit:
                raise self._refused(error) from None
            return False

    def forget_changed(self, sources: Sequence[tuple[str, Described]]) -> None:
        """Whatever is of another size than it was, or has been written since it was kept."""
        for url, source in sources:
            path = self._path(url)
            with suppress(OSError), self._ledger() as ledger:
                status = path.stat()
                if source.is_another_than(status.st_size, status.st_mtime):
                    path.unlink()
                    ledger.write(ledger.read() - status.st_size)

    def check_room(self, sizes: Sequence[int | None]) -> None:
        """StorageError if pictures of these sizes, as far as they are known, do not fit beside what is kept."""
        with self._ledger() as ledger:
            left = max(self.most_bytes - ledger.read(), 0)
        free = shutil.disk_usage(self.folder).free
        wanted = sum(size or 0 for size in sizes)
        if wanted > min(left, free):
            by_limit = self.is_limited and left <= free
            raise StorageError(
                f"{self.folder} has room for {_in_words(min(left, free))}, and the {len(sizes)} pictures that are to be"
                f" downloaded take {_in_words(wanted)}. {_ways_out(by_limit=by_limit)}"
            )

    def _kept(self, path: Path, content: bytes) -> bool:
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{path.name}.{_host()}.{os.getpid()}.{threading.get_ident()}{_PART}")
        with self._ledger() as ledger:
            total = ledger.read()
            if total + len(content) > self.most_bytes:
                if self.all_must_fit:
                    raise OSError(0, f"{_in_words(self.most_bytes)} are taken")
                return False
            _reserve(part, len(content))
            ledger.write(total + len(content))
        try:
            part.write_bytes(content)
            with self._ledger() as ledger:
                if path.exists():  # another process has read it too
                    ledger.write(ledger.read() - len(content))
                else:
                    part.replace(path)
        except OSError:
            with self._ledger() as ledger:
                ledger.write(ledger.read() - len(content))
            raise
        finally:
            part.unlink(missing_ok=True)
        return True

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / name

    @contextmanager
    def _ledger(self) -> Iterator[_Ledger]:
        descriptor = os.open(self.folder / _LEDGER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield _Ledger(descriptor)
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> StorageError:
        ways_out = _ways_out(by_limit=self.is_limited and not error.errno)
        return StorageError(f"{self.folder} cannot hold all pictures: {(error.strerror or str(error))}. {ways_out}")


def _ways_out(*, by_limit: bool) -> str:
    larger = "raise data.cache_size_megabytes" if by_limit else "name a folder on a larger disk: data.cache=PATH"
    return f"Read them while training, data.stream_image_files=true, or {larger}."


@dataclass(frozen=True)
class _Ledger:
    """A number of bytes in an open file."""

    descriptor: int

    def read(self) -> int:
        return int(os.pread(self.descriptor, 32, 0) or 0)

    def write(self, total: int) -> None:
        os.pwrite(self.descriptor, f"{max(total, 0):020}".encode(), 0)


class ImageSource:
    """Reads pictures wherever they lie; those from elsewhere through a cache, and ahead of time where it is told of."""

    def __init__(self, cache: ImageCache | None = None) -> None:
        self.cache = cache
        self._ahead = Prefetch(self._read)

    def __reduce__(self) -> tuple[type[ImageSource], tuple[ImageCache | None]]:
        """For processes that are not forked."""
        return ImageSource, (self.cache,)

    def read(self, image: str) -> bytes:
        if self.cache is None or local_path(image) is not None:
            return read_bytes(image)
        return self._ahead.take(image)

    def ask_for(self, image: str) -> None:
        """It will be read soon."""
        if self.cache is not None and local_path(image) is None and not self.cache.holds(image):
            self._ahead.ask(image)

    def _read(self, image: str) -> bytes:
        assert self.cache is not None
        content = self.cache.find(image)
        if content is None:
            content = read_bytes(image)
            self.cache.keep(image, content)
        return content


_source = ImageSource()


def source() -> ImageSource:
    """That of this process; processes it forks have the same."""
    return _source


def use(chosen: ImageSource) -> None:
    global _source
    _source = chosen


def image_bytes(image: str) -> bytes:
    """The content of a picture's file, from disk, from the cache or from where it lies."""
    return _source.read(image)


def open_cache(remote: Sequence[str], config: DataConfig, threads: Executor) -> set[str]:
    """Let this process, and those it forks, read these pictures as the configuration says.

    Gives those that are held and that their source tells nothing of.
    """
    cache = cache_of(config).opened()
    use(ImageSource(cache))
    held = [url for url in remote if cache.holds(url)]
    sources = list(zip(held, threads.map(described, held), strict=True))
    cache.forget_changed(sources)
    if cache.all_must_fit:
        missing = [url for url in remote if not cache.holds(url)]
        sizes = list(threads.map(_size, missing))
        cache.check_room(sizes)
        if missing:
            LOG.info(
                "Downloading %d pictures, %s, to %s", len(missing), _in_words(sum(s or 0 for s in sizes)), cache.folder
            )
    return {url for url, told in sources if told == Described()}


def _size(url: str) -> int | None:
    """A server that is silent takes half a minute to say nothing, which is not waited for again for each picture."""
    return None if is_down(url) else described(url).size


def cache_of(config: DataConfig) -> ImageCache:
    """A folder for each data set: what there is room for must not be taken by others."""
    named = (config.training, config.validation, config.test, config.images, config.url_prefixes)
    folder = cache_folder(config.cache) / "images" / hashlib.sha256(repr(named).encode()).hexdigest()[:16]
    return ImageCache(
        folder=folder,
        most_bytes=_most_bytes(config.cache_size_megabytes, folder, all_must_fit=not config.stream_image_files),
        all_must_fit=not config.stream_image_files,
        is_limited=config.cache_size_megabytes is not None,
    )


def _most_bytes(megabytes: float | None, folder: Path, *, all_must_fit: bool) -> int:
    if megabytes is not None:
        return int(megabytes * _MEGABYTE)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    held = sum(_sizes(folder)) if folder.is_dir() else 0
    return held + int(shutil.disk_usage(there).free * (1 if all_must_fit else _SHARE_OF_FREE))


def _sizes(folder: Path) -> Iterator[int]:
    """Of every file that is kept or being written; what nobody writes any more is deleted."""
    for parent in os.scandir(folder):
        if not parent.is_dir():
            continue
        for entry in os.scandir(parent):
            with suppress(FileNotFoundError):
                if entry.name.endswith(_PART) and _is_abandoned(entry):
                    os.unlink(entry)
                else:
                    yield entry.stat().st_size


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    """Of a process of this machine that is gone, or of another machine and old."""
    _, host, process, *_ = entry.name.split(".")
    if host != _host():
        return time.time() - entry.stat().st_mtime > _HOUR
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _reserve(part: Path, size: int) -> None:
    """The room on the disk, so that it is full now or not at all."""
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if size and allocate is not None:
            allocate(descriptor, 0, size)
    except OSError:
        part.unlink()
        raise
    finally:
        os.close(descriptor)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _in_words(size: int) -> str:
    if size < 1e6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
