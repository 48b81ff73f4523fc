"""Which pictures an ``input`` means: a file, a folder, a pattern, JSON Lines, or a list on stdin; imports no torch."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lightning_automl_vision.data.files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    beginning,
    closed_folder,
    files_below,
    folder_of,
)
from lightning_automl_vision.data.readers.jsonl import read_objects, recognises
from lightning_automl_vision.data.rows import MISSING, Faults, shown
from lightning_automl_vision.data.urls import read_fault, resolve_image, without_query
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import DataConfig

STDIN = "-"
_ON_STDIN = 'Write a path or URL on each line, or {"image_url": "a.jpg"}; a name that begins with { as ./{b}.png.'


class Picture(NamedTuple):
    """A picture by the name it is answered under, the place it is read from, and a path for what is made from it.

    The path is relative, without a suffix, and no other picture's. With a ``fault`` there is nothing to be read.
    """

    name: str
    image: str
    stem: str
    fault: str | None = None


class _Named(NamedTuple):
    name: str
    image: str
    fault: str | None = None


@dataclass
class _Lines(Faults):
    """Keeps what is wrong with a line, by its place, for an answer of its own, unless faults are ignored."""

    kept: list[_Named] = field(default_factory=list)

    def drop(self, reason: str, place: str, text: str, way_out: str = "Correct it") -> None:
        if self.ignore:
            super().drop(reason, place, text, way_out)
        else:
            file, _, line = place.rpartition(":")
            place = f"{without_query(file)}:{line}"
            self.kept.append(_Named(os.path.basename(place), "", f"{place}: {text}. {way_out}."))

    def taken(self) -> list[_Named]:
        """Each once."""
        kept, self.kept = self.kept, []
        return kept


def pictures_of(source: str, config: DataConfig, *, outside: str | None = None) -> list[Picture]:
    """In order; of folders and patterns only what has a picture's suffix and does not lie in ``outside``.

    A line of a list that names no picture has its place among them, with what is wrong with it.
    """
    named = _named(source, config, outside)
    taken: set[str] = set()
    return [Picture(name, image, _stem(name, taken), fault) for name, image, fault in named]


def _named(source: str, config: DataConfig, outside: str | None) -> Sequence[_Named]:
    if source == STDIN:
        return _usable(list(_said(config)), f"input={STDIN}", "nothing was said on stdin. " + _ON_STDIN)
    if os.path.isdir(source):
        closed: list[OSError] = []
        names = files_below(source, IMAGE_SUFFIXES | VIDEO_SUFFIXES, closed.append)
        files = [(name, os.path.join(source, name)) for name in names]
        return _chosen(source, files, outside, closed)
    if "://" not in source and not os.path.exists(source):
        if not glob.has_magic(source):
            raise DataError(f"input={source}: {_why_not(source)}.")
        return _chosen(source, _matching(source), outside, list(_closed_on_the_way(source)))
    if _is_list(source):
        return _listed(source, config)
    return [_Named(os.path.basename(without_query(source)), source)]


def _unseen(fault: OSError) -> _Named:
    """A folder that may not be looked into has a row of its own: nobody knows which pictures are missing."""
    return _Named(fault.filename, "", str(closed_folder(fault)))


def _chosen(
    source: str, files: Sequence[tuple[str, str]], outside: str | None, closed: Sequence[OSError]
) -> Sequence[_Named]:
    """The pictures, then the closed folders: one of either at least, or else what might have been meant is told."""
    videos = [path for _, path in files if _suffix(path) in VIDEO_SUFFIXES]
    pictures = [_Named(name, path) for name, path in files if _suffix(path) in IMAGE_SUFFIXES]
    found = [one for one in pictures if not _lies_in(one.image, outside)]
    left_out = len(pictures) - len(found)
    if left_out and not found:
        raise ConfigError(
            f"output={outside}: all {left_out} pictures of input={source} lie in it, and what lies where answers are"
            " written is not asked about. Name a folder that the pictures do not lie in."
        )
    told_videos = f"{len(videos)} video{'s' * (len(videos) > 1)}"
    if not found and not closed:
        but = f", but {told_videos}. Name one: input={videos[0]}" if videos else ""
        suffixes = f"Suffixes of pictures are {', '.join(sorted(IMAGE_SUFFIXES))}."
        raise DataError(f"input={source}: no picture is there{but}. {suffixes}")
    if left_out:
        LOG.warning("Left out: %d picture%s below output=%s.", left_out, "s" * (left_out > 1), outside)
    if videos:
        LOG.warning("Left out: %s. To ask about the frames of one, name it: input=%s", told_videos, videos[0])
    return [*found, *map(_unseen, closed)]


def _why_not(source: str) -> str:
    """What hides a file or folder: mostly that there is none."""
    try:
        os.stat(source)
    except PermissionError as error:
        return read_fault(error)
    except OSError:
        pass
    return "there is no such file or folder"


def _is_list(source: str) -> bool:
    path = without_query(source)
    if _suffix(path) in IMAGE_SUFFIXES or ("://" in source and not path.endswith(".jsonl")):
        return False
    return recognises(path) or beginning(source).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _matching(pattern: str) -> list[tuple[str, str]]:
    """All but folders, named relative to the last folder before the pattern begins."""
    folder = pattern
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return [
        (os.path.relpath(path, folder or os.curdir), path)
        for path in sorted(glob.glob(pattern, recursive=True))
        if not os.path.isdir(path)
    ]


def _closed_on_the_way(pattern: str) -> Iterator[OSError]:
    """The folders that a pattern leads to, or through, and that may not be looked into."""
    for part in Path(pattern).parents:
        for folder in filter(os.path.isdir, glob.glob(str(part), recursive=True)):
            try:
                os.scandir(folder).close()
            except PermissionError as fault:
                yield fault


def _listed(file: str, config: DataConfig) -> Sequence[_Named]:
    """Labels, if there are any, are not looked at."""
    lines = _Lines(ignore=config.ignore_data_errors)
    found = list(_of_objects(file, config, lines))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(lines.dropped.items()))
    why = f"no line of it names a picture ({reasons})" if reasons else "it is empty"
    usable = _usable(found, f"input={file}", f'{why}. Write one a line: {{"image_url": "photo.jpg"}}.')
    if reasons:
        LOG.warning("Dropped lines of %s: %s.", file, reasons)
    return usable


def _of_objects(file: str, config: DataConfig, lines: _Lines) -> Iterator[_Named]:
    base = folder_of(file, config)
    for number, value in read_objects(file, config.encoding, lines):
        yield from lines.taken()
        name = value.get("image_url", MISSING)
        try:
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"image_url is {shown(name)}, where the name of a picture should be")
            yield _Named(name, resolve_image(name, base, config))
        except DataError as error:
            lines.drop("line without a picture", f"{file}:{number}", str(error).rstrip("."))
    yield from lines.taken()


def _usable(named: Sequence[_Named], source: str, reason: str) -> Sequence[_Named]:
    """DataError where there is no picture among them: its first fault, or else the ``reason``."""
    if all(one.fault is not None for one in named):
        faults = [one.fault for one in named]
        raise DataError(f"{source}: {f'no line names a picture. The first: {faults[0]}' if faults else reason}")
    return named


def _said(config: DataConfig) -> Iterator[_Named]:
    """A path or URL on each line, relative to where the command runs, or an object with an ``image_url``."""
    for number, line in enumerate(sys.stdin.buffer.read().split(b"\n"), start=1):
        text = os.fsdecode(line.strip(b" \t\r"))
        name = _name_in(text)
        if name is None:
            yield _Named(f"stdin:{number}", "", f"stdin:{number}: {shown(text)} names no picture. {_ON_STDIN}")
        elif name:
            yield _Named(name, name if "://" in name else os.path.abspath(name))


def _name_in(text: str) -> str | None:
    """A name that looks like JSON is one where there is such a file."""
    if not text.startswith("{") or os.path.exists(text):
        return text
    try:
        name = json.loads(text).get("image_url")
    except (ValueError, RecursionError):
        return None
    return name if isinstance(name, str) and name else None


def _lies_in(path: str, folder: str | None) -> bool:
    return folder is not None and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


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
