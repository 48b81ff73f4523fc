"""Pascal VOC: one XML file an image; with mask pictures for segmentation, each value but the background one object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

import numpy as np

from lightning_automl_vision.data.files import files_in, folder_of, open_bytes, read_text
from lightning_automl_vision.data.rows import Row, Source, shown
from lightning_automl_vision.data.tracing import mask_to_polygons
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.samples import IntArray

TASKS = frozenset(("image_classification_multilabel", "image_object_detection", "image_instance_segmentation"))

_XML = frozenset((".xml",))
_MASK_FOLDERS = ("SegmentationObject", "segmentation-masks", "masks")
_VOID = 255
_SIDES = {"xmin": "topX", "ymin": "topY", "xmax": "bottomX", "ymax": "bottomY"}


def recognises(path: str) -> bool:
    if path.lower().endswith(".xml"):
        return True
    return _annotations(path) is not None or (path.lower().endswith(".txt") and _root_of_list(path) is not None)


def read(source: Source) -> Iterator[Row]:
    """A folder of XML files, a folder that holds Annotations, one XML file, or a list in ImageSets."""
    for file in _files(source):
        try:
            row = _row(file, source)
        except ValueError as error:
            source.faults.drop("unreadable annotation", file, str(error))
            continue
        if row is not None:
            yield row


@dataclass
class Element:
    """An XML element with the line it starts on."""

    name: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def find(self, *names: str) -> Element | None:
        element: Element | None = self
        for name in names:
            element = next(iter(element.all(name)), None) if element else None
        return element

    def value(self, *names: str) -> str | None:
        element = self.find(*names)
        return element.text.strip() if element else None


def parse(content: bytes) -> Element:
    """The root element; ValueError names the line that is not XML."""
    root = Element("", 0)
    stack = [root]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, _: dict[str, str]) -> None:
        element = Element(name, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop() and None
    parser.CharacterDataHandler = text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"not XML at line {error.lineno}: {expat.errors.messages[error.code]}") from None
    return root.children[0]


def _annotations(path: str) -> str | None:
    """The folder of the XML files."""
    if not os.path.isdir(path):
        return None
    return next((folder for folder in (path, os.path.join(path, "Annotations")) if files_in(folder, _XML)), None)


def _root_of_list(path: str) -> str | None:
    """The folder above ImageSets, or above the list, that holds Annotations."""
    folder = os.path.dirname(os.path.abspath(path))
    for _ in range(3):
        if files_in(os.path.join(folder, "Annotations"), _XML):
            return folder
        folder = os.path.dirname(folder)
    return None


def _files(source: Source) -> Iterator[str]:
    path = source.path
    if path.lower().endswith(".xml"):
        yield path
    elif path.lower().endswith(".txt"):
        yield from _listed(path, source)
    else:
        folder = _annotations(path)
        if folder is None:
            raise DataError(f"{path}: no XML file in it, nor in Annotations below it. Name the folder that holds them.")
        yield from (os.path.join(folder, name) for name in files_in(folder, _XML))


def _listed(path: str, source: Source) -> Iterator[str]:
    root = _root_of_list(path)
    if root is None:
        raise DataError(f"{path}: no folder Annotations beside or above it. Name the folder of the XML files instead.")
    root = os.path.relpath(root) if not os.path.isabs(path) else root
    for number, line in enumerate(read_text(path, source.config.encoding).splitlines(), start=1):
        # Lists of one class carry 1, 0 or -1 behind the name.
        words = line.split()
        if not words:
            continue
        file = os.path.join(root, "Annotations", f"{words[0]}.xml")
        if os.path.isfile(file):
            yield file
        else:
            source.faults.drop("no annotation", f"{path}:{number}", f"there is no {file}")


def _row(file: str, source: Source) -> Row | None:
    with open_bytes(file) as stream:
        root = parse(stream.read())
    name = root.value("filename") or ""
    if not name:
        raise ValueError("no <filename>")
    objects = root.all("object")
    base = _image_folder(file, source)
    size = _size(root)
    if source.task == "image_classification_multilabel":
        return Row(name, list(dict.fromkeys(item.value("name") for item in objects)), file, 0, base, size=size)
    places = [f"{file}:{item.line}" for item in objects]
    if source.task == "image_object_detection":
        return Row(name, [_box(item) for item in objects], file, 0, base, None, places, True, size)
    mask = _mask(file, source)
    parts = _instances(mask, len(objects))
    label = [{**_named(item), "polygon": polygon} for item, polygon in zip(objects, parts, strict=True)]
    height, width = mask.shape
    return Row(name, label, file, 0, base, None, places, True, (width, height), True)


def _named(item: Element) -> dict[str, Any]:
    name = item.value("name")
    label = {} if name is None else {"label": name}
    return {**label, "isCrowd": item.value("difficult") or 0}


def _box(item: Element) -> dict[str, Any]:
    box = item.find("bndbox")
    sides = {side: box.value(tag) for tag, side in _SIDES.items()} if box else {}
    return {**_named(item), **{side: text for side, text in sides.items() if text is not None}}


def _size(root: Element) -> tuple[int, int] | None:
    try:
        return int(root.value("size", "width") or 0), int(root.value("size", "height") or 0)
    except ValueError:
        return None


def _image_folder(file: str, source: Source) -> str:
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(file))), "JPEGImages")
    return beside if source.config.images is None and os.path.isdir(beside) else folder_of(file, source.config)


def _mask(file: str, source: Source) -> IntArray:
    from PIL import Image

    folder, name = os.path.split(os.path.abspath(file))
    stem = os.path.splitext(name)[0]
    tried = [os.path.join(os.path.dirname(folder), kind, f"{stem}.png") for kind in _MASK_FOLDERS]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise ValueError(f"no mask picture {stem}.png in {', '.join(_MASK_FOLDERS)} beside {folder}")
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read: {error}") from None
    if values.ndim != 2:
        raise ValueError(f"the mask {path} has {values.shape[2]} channels, not one with a value for each object")
    return values.astype(np.int64)


def _instances(mask: IntArray, count: int) -> list[list[list[float]]]:
    """The polygons of each object, in order of the mask's values, which is the order of the XML."""
    values = [int(value) for value in np.unique(mask) if value]
    if len(values) == count + 1 and values[-1] == _VOID:
        values.pop()
    if len(values) != count:
        raise ValueError(f"{count} objects, but the mask has the values {shown(values)}")
    return [[part.ravel().tolist() for part in mask_to_polygons(mask == value)] for value in values]
