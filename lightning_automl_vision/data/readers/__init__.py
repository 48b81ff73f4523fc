"""The label formats. Each is a module here with ``TASKS``, ``recognises(path)`` and ``read(source)``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

from lightning_automl_vision.data.rows import Row, Source
from lightning_automl_vision.errors import ConfigError, DataError

# In the order in which `auto` asks them.
FORMATS = ("jsonl", "mltable", "coco", "csv", "voc", "yolo", "masks", "folder")


class Reader(Protocol):
    """``recognises`` looks at the path alone; ``read`` gives rows and leaves their checks to others."""

    TASKS: frozenset[str]

    def recognises(self, path: str) -> bool: ...

    def read(self, source: Source) -> Iterator[Row]: ...


def reader(name: str) -> Reader:
    return cast(Reader, import_module(f"{__name__}.{name}"))


def find_reader(source: Source) -> Reader:
    """The reader that ``data.format`` names, or the first that recognises the path."""
    name = source.config.format
    name = detect_format(source.path, source.task) if name == "auto" else name
    found = reader(name)
    if source.task not in found.TASKS:
        raise ConfigError(
            f"{source.path}: the format {name} has no labels for task={source.task}, only for "
            f"{', '.join(sorted(found.TASKS))}. Choose one of these tasks, or give the labels in another format."
        )
    return found


def detect_format(path: str, task: str) -> str:
    """The first format that recognises the path and serves the task, or else that recognises the path."""
    if "://" not in path and not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder. Check the path.")
    found = [name for name in FORMATS if reader(name).recognises(path)]
    if found:
        return next((name for name in found if task in reader(name).TASKS), found[0])
    raise DataError(
        f"{path}: not recognised as any of {', '.join(FORMATS)}. Say which it is with data.format=NAME, "
        "or give the label file rather than a folder above it."
    )
