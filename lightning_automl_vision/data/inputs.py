"""Which pictures an ``input`` means: a file, a folder, a pattern, JSON Lines, or a list on stdin; imports no torch."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from lightning_automl_vision.data.files import IMAGE_SUFFIXES, beginning, files_below, folder_of
from lightning_automl_vision.data.readers.jsonl import read_objects, recognises
from lightning_automl_vision.data.rows import MISSING, Faults, shown
from lightning_automl_vision.data.urls import resolve_image, without_query
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import DataConfig

STDIN = "-"


class Picture(NamedTuple):
    """A picture by the name it is answered under, the place it is read from, and a path for what is made from it.

    The path is relative, without a suffix, and no other picture's.
    """

    name: str
    image: str
    stem: str


def pictures_of(source: str, config: DataConfig, *, outside: str | None = None) -> list[Picture]:
    """In order; of folders and patterns only what has a picture's suffix and does not lie in ``outside``."""
    named = _named(source, config, None if outside is None else os.path.abspath(outside))
    if not named and source == STDIN:
        raise DataError(f"input={STDIN}: nothing was said on stdin. Write the path or URL of a picture on each line.")
    if not named:
        raise DataError(
            f"input={source}: no picture is there. Suffixes of pictures are {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    taken: set[str] = set()
    return [Picture(name, image, _stem(name, taken)) for name, image in named]


def _named(source: str, config: DataConfig, outside: str | None) -> list[tuple[str, str]]:
    if source == STDIN:
        return list(_said(config))
    if os.path.isdir(source):
        files = [(name, os.path.join(source, name)) for name in files_below(source, IMAGE_SUFFIXES)]
        return [(name, path) for name, path in files if not _lies_in(path, outside)]
    if "://" not in source and not os.path.exists(source):
        if not glob.has_magic(source):
            raise DataError(f"input={source}: there is no such file or folder.")
        return _matching(source, outside)
    if _is_list(source):
        return list(_listed(source, config))
    return [(os.path.basename(without_query(source)), source)]


def _is_list(source: str) -> bool:
    path = without_query(source)
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or ("://" in source and not path.endswith(".jsonl")):
        return False
    return recognises(path) or beginning(source).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _matching(pattern: str, outside: str | None) -> list[tuple[str, str]]:
    """Named relative to the last folder before the pattern begins."""
    folder = pattern
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return [
        (os.path.relpath(path, folder or os.curdir), path)
        for path in sorted(glob.glob(pattern, recursive=True))
        if _has_suffix(path) and os.path.isfile(path) and not _lies_in(path, outside)
    ]


def _listed(file: str, config: DataConfig) -> Iterator[tuple[str, str]]:
    """Labels, if there are any, are not looked at."""
    base, faults, empty = folder_of(file, config), Faults(ignore=config.ignore_data_errors), True
    for number, value in read_objects(file, config.encoding, faults):
        name = value.get("image_url", MISSING)
        try:
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"image_url is {shown(name)}, where the name of a picture should be")
            yield name, resolve_image(name, base, config)
            empty = False
        except DataError as error:
            faults.drop("line without a picture", f"{file}:{number}", str(error).rstrip("."))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(faults.dropped.items()))
    if empty:
        why = f"no line of it names a picture ({reasons})" if reasons else "it is empty"
        raise DataError(f'input={file}: {why}. Write one a line: {{"image_url": "photo.jpg"}}.')
    if reasons:
        LOG.warning("Dropped lines of %s: %s.", file, reasons)


def _said(config: DataConfig) -> Iterator[tuple[str, str]]:
    """A path or URL on each line, relative to where the command runs, or an object with an ``image_url``."""
    for number, line in enumerate(sys.stdin.read().splitlines(), start=1):
        text = line.strip()
        name: object = text
        if text.startswith("{"):
            try:
                name = json.loads(text).get("image_url")
            except ValueError:
                name = None
        if not isinstance(name, str) or (text and not name):
            raise DataError(
                f'stdin:{number}: {shown(text)} names no picture. Write a path, or {{"image_url": "a.jpg"}}.'
            )
        if name:
            yield name, name if "://" in name else os.path.abspath(name)


def _lies_in(path: str, folder: str | None) -> bool:
    return folder is not None and os.path.commonpath([os.path.abspath(path), folder]) == folder


def _has_suffix(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def stem_of(name: str) -> str:
    """Whatever the name, a path that stays within the folder it is put in."""
    path = re.sub(r"^\w+:/+", "", without_query(name)).replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return os.path.splitext("/".join(parts))[0] or "picture"


def _stem(name: str, taken: set[str]) -> str:
    stem = stem_of(name)
    free, number = stem, 1
    while free.lower() in taken:
        number += 1
        free = f"{stem}_{number}"
    taken.add(free.lower())
    return free
