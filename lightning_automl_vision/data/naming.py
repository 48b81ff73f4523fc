"""Gives each row its image's place and its group, and refuses images that are named badly or twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lightning_automl_vision.data.readers import find_reader
from lightning_automl_vision.data.rows import Faults, Row, Source, is_pattern, shown
from lightning_automl_vision.data.urls import resolve_image
from lightning_automl_vision.errors import ConfigError, DataError


class Named(NamedTuple):
    """A row whose image is known to be named once and properly."""

    row: Row
    image: str
    group: str | None


def named_rows(source: Source) -> Iterator[Named]:
    """Each row once, with its image's place and its group."""
    seen: dict[str, tuple[str, int, str | None]] = {}
    group_of = _grouping(source)
    for row in find_reader(source).read(source):
        image = _resolved(row, source)
        if image is None:
            continue
        place = (row.file, row.line, row.label if isinstance(row.label, str) else None)
        earlier = seen.setdefault(image, place)
        if earlier is not place:
            _refuse_twice(row, *earlier, source.faults)
            continue
        group = None
        if group_of is not None:
            group = group_of(row)
            if group is None:
                del seen[image]
                continue
        yield Named(row, image, group)


def _resolved(row: Row, source: Source) -> str | None:
    if not isinstance(row.image, str) or not row.image.strip():
        text = f"the image name is {shown(row.image)}" + ("" if isinstance(row.image, str) else ", not text")
        source.faults.drop("image name of a wrong type", row.place, text)
        return None
    try:
        return resolve_image(row.image, row.base, source.config)
    except DataError as error:
        source.faults.drop("image name refused", row.place, str(error).rstrip("."))
        return None


def _refuse_twice(row: Row, file: str, line: int, label: str | None, faults: Faults) -> None:
    first = f"{file}:{line}" if line else file
    if label is not None and isinstance(row.label, str) and label != row.label:
        faults.drop(
            "image with two labels",
            row.place,
            f"the image {shown(row.image)} has the label {shown(row.label)}, but {shown(label)} at {first}",
            "Keep the right one, or choose task=image_classification_multilabel with a list of labels",
        )
    else:
        faults.drop(
            "image named twice",
            row.place,
            f"the image {shown(row.image)} is named again, first at {first}",
            "Keep one line an image, with all of its labels",
        )


def _grouping(source: Source) -> Callable[[Row], str | None] | None:
    """The function that gives a row's group, None for a row that was dropped; None without ``data.group_by``."""
    group_by = source.config.group_by
    if group_by is None:
        return None
    if not is_pattern(group_by):
        return lambda row: _group_by_key(row, group_by, source.faults)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(f"data.group_by={group_by}: not a regular expression ({error}). Correct it.") from None
    if pattern.groups != 1:
        raise ConfigError(f"data.group_by={group_by}: {pattern.groups} groups in parentheses. Write exactly one.")
    return lambda row: _group_by_name(row, pattern, source.faults)


def _group_by_key(row: Row, key: str, faults: Faults) -> str | None:
    if isinstance(row.group, (str, int)) and str(row.group).strip():
        return str(row.group)
    way_out = f"Add {key!r} to every line, or give data.group_by a regular expression with one group"
    faults.drop("no group", row.place, f"no group: {key!r} is {shown(row.group)}", way_out)
    return None


def _group_by_name(row: Row, pattern: re.Pattern[str], faults: Faults) -> str | None:
    match = pattern.search(row.image)
    if match and match[1]:
        return match[1]
    text = f"no group: data.group_by={pattern.pattern} finds nothing in {shown(row.image)}"
    faults.drop("no group", row.place, text, "Correct the pattern")
    return None
