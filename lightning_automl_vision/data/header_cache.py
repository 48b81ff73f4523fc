"""What is remembered of image headers: one small JSON file for each folder that holds a data set's images.

Files are replaced whole, so any number of processes may read and write at once; the last one wins, and what it did not
know of is merely read again. A file that cannot be understood counts as empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

Entry = tuple[int, int, int, int]
"""Size in bytes, time of the last change in nanoseconds, width and height as displayed."""
Known = dict[str, Entry]

_VERSION = 1
_MOST_OTHERS = 200_000


def cache_folder(asked: str | None) -> Path:
    if asked:
        return Path(asked).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lightning_automl_vision"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_automl_vision"


def load_known(folder: str | None, paths: Collection[str]) -> Known:
    """The entries, by absolute or relative path as asked, of the file that belongs to these paths."""
    root = _root(paths)
    return {root + name: entry for name, entry in _read(_file(folder, root)).items()}


def store_known(folder: str | None, paths: Collection[str], fresh: Known) -> None:
    """Add entries; a cache that cannot be written is done without."""
    root = _root(paths)
    file = _file(folder, root)
    entries = _read(file)
    if len(entries) > _MOST_OTHERS + len(paths):
        asked = set(paths)
        entries = {name: entry for name, entry in entries.items() if root + name in asked}
    entries |= {path[len(root) :]: entry for path, entry in fresh.items()}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps({"version": _VERSION, "root": root, "headers": entries}, separators=(",", ":")))


def _root(paths: Collection[str]) -> str:
    """The longest beginning, up to a slash, that all paths share."""
    first, last = min(paths), max(paths)
    shared = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind("/", 0, shared) + 1]


def _file(folder: str | None, root: str) -> Path:
    name = hashlib.sha256(os.path.abspath(root).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return cache_folder(folder) / "headers" / f"{name}.json"


def _read(file: Path) -> dict[str, Entry]:
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != _VERSION:
            return {}
        headers: dict[str, Entry] = content["headers"]
        return headers if all(len(entry) == 4 and {*map(type, entry)} == {int} for entry in headers.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _replace(file: Path, text: str) -> None:
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
        os.replace(part, file)
    except BaseException:
        os.unlink(part)
        raise
