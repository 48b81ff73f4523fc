"""MLTable: a folder whose file ``MLTable`` names JSON Lines files and what is done to their rows."""

from __future__ import annotations

import glob
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from lightning_automl_vision.data.files import read_text
from lightning_automl_vision.data.readers import jsonl
from lightning_automl_vision.data.rows import Row, Source, shown
from lightning_automl_vision.data.urls import resolve_image
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.specs import TASKS as TASK_SPECS

TASKS = frozenset(TASK_SPECS)

_ENCODINGS = {
    "utf8": "utf-8", "utf8bom": "utf-8-sig", "ascii": "ascii", "latin1": "latin-1", "iso88591": "latin-1",
    "utf16": "utf-16", "utf32": "utf-32", "windows1252": "cp1252",
}  # fmt: skip
_NEEDED = ("image_url", "label")

# A row before it becomes a Row: its file, its line and the JSON object.
Line = tuple[str, int, dict[str, Any]]
Step = Callable[[Iterator[Line]], Iterator[Line]]


def recognises(path: str) -> bool:
    return os.path.basename(path) == "MLTable" or os.path.isfile(os.path.join(path, "MLTable"))


def read(source: Source) -> Iterator[Row]:
    path = source.path if os.path.basename(source.path) == "MLTable" else os.path.join(source.path, "MLTable")
    table = _Table(path, source)
    lines = table.lines()
    for step in table.steps():
        lines = step(lines)
    for file, number, value in lines:
        yield from jsonl.rows_of(iter([(number, value)]), file, source)


class _Table:
    def __init__(self, path: str, source: Source) -> None:
        import yaml

        self._path = path
        self._source = source
        try:
            content = yaml.safe_load(read_text(path, "utf-8"))
        except yaml.YAMLError as error:
            raise self._error(f"not YAML ({' '.join(str(error).split())})", "Correct it") from None
        if not isinstance(content, dict) or not isinstance(content.get("paths"), list):
            raise self._error("no list 'paths'", "Write paths and below it - file: ./train.jsonl")
        self._paths: list[Any] = content["paths"]
        self._transformations = [self._named(item) for item in content.get("transformations") or []]
        if not self._transformations or self._transformations[0][0] != "read_json_lines":
            first = self._transformations[0][0] if self._transformations else "nothing"
            raise self._error(
                f"the first of the transformations is {first}, not read_json_lines", "Only JSON Lines are read"
            )
        self._reading = self._options("read_json_lines", self._transformations[0][1])

    def lines(self) -> Iterator[Line]:
        encoding = str(self._reading.get("encoding", "utf8"))
        if encoding not in _ENCODINGS:
            raise self._error(f"encoding {encoding}", f"Choose one of {', '.join(_ENCODINGS)}")
        invalid = self._reading.get("invalid_lines", "error")
        if invalid not in ("error", "drop"):
            raise self._error(f"invalid_lines is {shown(invalid)}", "Choose error or drop")
        faults = self._source.faults
        reading = faults if invalid == "error" else replace(faults, ignore=True)
        for file in self._files():
            for number, value in jsonl.read_objects(file, _ENCODINGS[encoding], reading):
                if self._reading.get("include_path_column"):
                    value["Path"] = file
                yield file, number, value

    def steps(self) -> list[Step]:
        return [self._step(name, options) for name, options in self._transformations[1:]]

    def _step(self, name: str, options: Any) -> Step:
        if name in ("take", "skip"):
            count = options.get("count") if isinstance(options, dict) else options
            if type(count) is not int or count < 0:
                raise self._error(f"{name} needs a number of rows, not {shown(options)}", "Correct it")
            return (lambda rows: islice(rows, count)) if name == "take" else lambda rows: islice(rows, count, None)
        if name == "take_random_sample":
            return self._sample(self._options(name, options))
        if name in ("keep_columns", "drop_columns"):
            return self._columns(name, [options] if isinstance(options, str) else options)
        if name == "convert_column_types":
            self._check_types(options)
            return lambda rows: rows
        known = "take, take_random_sample, skip, keep_columns, drop_columns and convert_column_types"
        raise self._error(f"the transformation {name} is not supported; {known} are", "Filter the JSONL itself")

    def _sample(self, options: dict[str, Any]) -> Step:
        share = options.get("probability")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise self._error(f"take_random_sample has the probability {shown(share)}", "Write one from 0 to 1")
        draw = random.Random(options.get("seed", 0)).random
        return lambda rows: (row for row in rows if draw() < share)

    def _columns(self, name: str, columns: Any) -> Step:
        if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
            raise self._error(f"{name} needs names of columns, not {shown(columns)}", "Correct it")
        lost = [column for column in _NEEDED if (column in columns) == (name == "drop_columns")]
        if lost:
            raise self._error(f"{name} takes {' and '.join(lost)} away, which training needs", "Keep them")
        keep = name == "keep_columns"
        return lambda rows: (
            (file, number, {column: value[column] for column in value if (column in columns) == keep})
            for file, number, value in rows
        )

    def _check_types(self, options: Any) -> None:
        """Images are streams and labels text in any case; another type would not be images."""
        for item in options if isinstance(options, list) else [options]:
            columns = item.get("columns") if isinstance(item, dict) else None
            names = [columns] if isinstance(columns, str) else columns
            kind = item.get("column_type") if isinstance(item, dict) else None
            if not isinstance(names, list):
                raise self._error(f"convert_column_types has no columns, only {shown(item)}", "Name them")
            if "image_url" in names and kind not in ("stream_info", "string"):
                raise self._error(f"convert_column_types makes image_url {shown(kind)}", "Use stream_info")
            if "label" in names:
                raise self._error(f"convert_column_types makes label {shown(kind)}", "Leave the labels as they are")

    def _files(self) -> Iterator[str]:
        for item in self._paths:
            kind, value = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (None, None)
            if kind not in ("file", "folder", "pattern") or not isinstance(value, str):
                raise self._error(f"the path {shown(item)}", "Write file, folder or pattern with a name")
            # Label files may lie anywhere, so this is no image name to be confined.
            config = replace(self._source.config, confine_images=False)
            place = resolve_image(value, os.path.dirname(self._path), config)
            found = [place] if kind == "file" else self._matching(place, kind)
            if not found:
                raise self._error(f"{kind}: {value} holds no file", "Correct the path")
            yield from found

    def _matching(self, place: str, kind: str) -> list[str]:
        if "://" in place:
            raise self._error(f"{kind}: {place} is no local {kind}", "Name each file, or map its beginning to a folder")
        pattern = place if kind == "pattern" else os.path.join(glob.escape(place), "**", "*.jsonl")
        return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))

    def _named(self, item: Any) -> tuple[str, Any]:
        if isinstance(item, str):
            return item, {}
        if isinstance(item, dict) and len(item) == 1:
            name, options = next(iter(item.items()))
            return str(name), options
        raise self._error(f"the transformation {shown(item)}", "Write one name with its options")

    def _options(self, name: str, options: Any) -> dict[str, Any]:
        if options is None or isinstance(options, dict):
            return options or {}
        raise self._error(f"{name} has {shown(options)} for options", "Write them as name: value")

    def _error(self, text: str, way_out: str) -> DataError:
        return DataError(f"{self._path}: {text}. {way_out}.")
