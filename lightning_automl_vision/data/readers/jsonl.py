"""JSON Lines: one object a line with ``image_url`` and ``label``."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

from lightning_automl_vision.data.files import beginning, folder_of, open_bytes
from lightning_automl_vision.data.rows import MISSING, Faults, Row, Source, shown
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.specs import TASKS as TASK_SPECS

TASKS = frozenset(TASK_SPECS)

_LINE_ENDS = frozenset(("\n", "\r\n", ""))
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def recognises(path: str) -> bool:
    if path.lower().endswith((".jsonl", ".ndjson")):
        return True
    return path.lower().endswith(".json") and b'"image_url"' in beginning(path)


def read(source: Source) -> Iterator[Row]:
    rows = read_objects(source.path, source.config.encoding, source.faults)
    return rows_of(rows, source.path, source)


def rows_of(objects: Iterator[tuple[int, dict[str, object]]], file: str, source: Source) -> Iterator[Row]:
    base = folder_of(file, source.config)
    key = source.key
    for number, value in objects:
        image = value.get("image_url", MISSING)
        label = value.get("label", MISSING)
        if image is MISSING or label is MISSING:
            name = "image_url" if image is MISSING else "label"
            source.faults.drop(f"no {name}", f"{file}:{number}", f"no {name!r}, only {shown([*value])}", f"Add {name}")
            continue
        yield Row(image, label, file, number, base, None if key is None else value.get(key))


def read_objects(file: str, encoding: str, faults: Faults) -> Iterator[tuple[int, dict[str, object]]]:
    """Each line's number and object; blank lines are skipped, a byte-order mark is understood."""
    decoder = json.JSONDecoder()
    begun = decoder.raw_decode
    for number, line in read_lines(file, encoding, faults):
        try:
            value, end = begun(line) if line[:1] == "{" else (None, None)
            if end is None or line[end:] not in _LINE_ENDS:
                value = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            if line.strip():
                _refuse_layout(file, number, line)
                faults.drop("not JSON", f"{file}:{number}", _why_not_json(line, error))
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            _refuse_layout(file, number, line)
            faults.drop("not a JSON object", f"{file}:{number}", f"not a JSON object but {shown(value)}")


def read_lines(file: str, encoding: str, faults: Faults) -> Iterator[tuple[int, str]]:
    codec = _codec(encoding)
    with open_bytes(file) as stream:
        start = stream.read(4)
        stream.seek(0)
        mark = next((name for bom, name in _BYTE_ORDER_MARKS.items() if start.startswith(bom)), None)
        if mark not in (None, "utf-8-sig") and not codec.startswith(("utf-16", "utf-32")):
            raise DataError(f"{file}:1: the text is {mark}, not {encoding}. Set data.encoding={mark}.")
        if codec.startswith(("utf-16", "utf-32")):
            yield from enumerate(_decode_whole(file, stream.read(), codec).split("\n"), start=1)
            return
        if mark:
            stream.seek(3)
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode(codec)
            except UnicodeDecodeError as error:
                faults.drop(
                    "wrong encoding",
                    f"{file}:{number}",
                    f"byte {line[error.start]:#04x} at column {error.start + 1} is not {encoding}",
                    "Save the file as UTF-8 or name its encoding, such as data.encoding=latin-1",
                )


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(f"data.encoding={encoding}: no such encoding. Use a name such as utf-8 or latin-1.") from None


def _decode_whole(file: str, content: bytes, codec: str) -> str:
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start + 1} is not {codec}. Set data.encoding to the right one.") from None


def _refuse_layout(file: str, number: int, line: str) -> None:
    """A whole document in another layout is no matter of single lines: refused even where faults are dropped."""
    text = line.strip()
    if text in ("{", "[") or (text.startswith(("{", "[")) and text.endswith((":", "{", "["))):
        raise DataError(
            f"{file}:{number}: one JSON object is spread over many lines, from {shown(text)} on. "
            "JSONL needs each object on one line: `jq -c . OLD > NEW` rewrites them."
        )
    if text.startswith("[{"):
        raise DataError(
            f"{file}:{number}: a JSON array of objects, from {shown(text, 30)} on. JSONL needs one object a line, "
            "without the array: `jq -c '.[]' OLD > NEW` rewrites it."
        )


def _why_not_json(line: str, error: ValueError | RecursionError) -> str:
    text = line.strip()
    if text.endswith("},"):
        return f"a trailing comma after the object: {shown(text[-20:])}"
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply for JSON"
    before = text[: error.pos].rstrip()
    start = len(before) - 1 if before.endswith(",") else error.pos
    if comma := re.compile(r",\s*[\]}]").match(text, start):
        return f"a trailing comma at column {start + 1}: {shown(text[max(0, start - 20) : comma.end()])}"
    if error.msg == "Extra data":
        return f"more than one object on the line, the second from column {error.pos + 1} on"
    return f"not JSON at column {error.pos + 1} ({error.msg}): {shown(text[max(0, error.pos - 15) : error.pos + 15])}"
