"""CSV with a header: a column of image names, one of labels; several labels are separated by spaces."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from lightning_automl_vision.data.files import folder_of, read_text
from lightning_automl_vision.data.rows import Row, Source, shown
from lightning_automl_vision.errors import DataError

TASKS = frozenset(("image_classification", "image_classification_multilabel"))

_IMAGE = ("image_url", "image", "filename", "file_name", "file", "image_path", "path")
_LABEL = ("label", "labels", "class", "category")
_OTHER_SEPARATOR = re.compile(r"[,;|]")


def recognises(path: str) -> bool:
    return path.lower().endswith((".csv", ".tsv"))


def read(source: Source) -> Iterator[Row]:
    path = source.path
    text = read_text(path, source.config.encoding)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.lower().endswith(".tsv") else ",")
    try:
        yield from _rows(lines, source)
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num}: not CSV ({error}). Correct the line.") from None


def _rows(lines: Iterator[list[str]], source: Source) -> Iterator[Row]:
    path = source.path
    header = [name.strip() for name in next(lines, [])]
    image, label = (_column(header, names, path) for names in (_IMAGE, _LABEL))
    group = _named_column(header, source.key, path) if source.key else None
    base = folder_of(path, source.config)
    number = 1
    for cells in lines:
        number = lines.line_num  # type: ignore[attr-defined]
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            text = f"{len(cells)} cells, but the header has {len(header)}: {shown(cells)}"
            source.faults.drop("wrong number of cells", f"{path}:{number}", text, "Quote cells that hold a comma")
            continue
        name = cells[image].strip()
        several = header[label].lower() == "labels"
        value = _label(cells[label].strip(), f"{path}:{number}", source, several)
        if value is not None:
            yield Row(name, value, path, number, base, None if group is None else cells[group])


def _label(cell: str, place: str, source: Source, several: bool) -> str | list[str] | None:
    if source.task == "image_classification":
        if several and len(cell.split()) > 1:
            raise DataError(
                f"{place}: the column of labels holds several: {shown(cell)}. Choose"
                " task=image_classification_multilabel, or call the column label if this is one label."
            )
        return cell
    other = _OTHER_SEPARATOR.search(cell)
    if other:
        text = f"the labels {shown(cell)} are separated by {other[0]!r}"
        source.faults.drop("labels not separated by spaces", place, text, "Separate them by spaces")
        return None
    return cell.split()


def _column(header: Sequence[str], names: Sequence[str], path: str) -> int:
    found = [index for index, name in enumerate(header) if name.lower() in names]
    if len(found) == 1:
        return found[0]
    columns = [header[index] for index in found]
    problem = f"the columns {shown(columns)} all look like it" if found else f"only {shown(header)}"
    raise DataError(f"{path}:1: the header needs one column called {' or '.join(names)}: {problem}. Rename one.")


def _named_column(header: Sequence[str], name: str, path: str) -> int:
    if name in header:
        return header.index(name)
    raise DataError(f"{path}:1: data.group_by={name}, but the columns are {shown(header)}. Name one of them.")
