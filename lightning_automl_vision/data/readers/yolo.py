"""YOLO text: a folder of pictures and one of text files, each line a class number and a box or a polygon."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_automl_vision.data.files import IMAGE_SUFFIXES, files_below, files_in, read_text
from lightning_automl_vision.data.rows import Row, Source, shown
from lightning_automl_vision.errors import DataError

TASKS = frozenset(("image_object_detection", "image_instance_segmentation"))

_TEXT = frozenset((".txt",))
_YAML = frozenset((".yaml", ".yml"))
_NAMES = frozenset((".names",))
_NAME_LISTS = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")
_ROLES = {"training": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Layout:
    images: str
    labels: str


def recognises(path: str) -> bool:
    if os.path.isfile(path):
        return path.lower().endswith(tuple(_YAML)) and _listing(path) is not None
    if not os.path.isdir(path):
        return False
    layout = find_layout(path, None)
    return _names_file(layout.labels, path) is not None and next(files_below(layout.labels, _TEXT), None) is not None


def read(source: Source) -> Iterator[Row]:
    root = source.path
    if os.path.isfile(root):
        root = _split_folder(root, source)
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder. YOLO labels are read from a folder, or from its data.yaml.")
    layout = find_layout(root, source.config.images)
    names = _class_names(layout, source)
    images = {os.path.splitext(name)[0]: name for name in files_below(layout.images, IMAGE_SUFFIXES)}
    texts = [name for name in files_below(layout.labels, _TEXT) if os.path.basename(name) not in _NAME_LISTS]
    labelled = {os.path.splitext(name)[0]: name for name in texts}
    base = layout.images if "://" in layout.images else os.path.abspath(layout.images)
    for stem, text in labelled.items():
        file = os.path.join(layout.labels, text)
        if stem not in images:
            found = f"no picture {stem}.* in {layout.images}"
            source.faults.drop("annotation without image", file, found, "Add it, or set data.images")
            continue
        label, places = _objects(file, names, source)
        if label is not None:
            yield Row(images[stem], label, file, 0, base, None, places)
    for stem, image in images.items():
        if stem not in labelled:
            source.faults.note("picture without a label file, read as one without objects")
            yield Row(image, [], os.path.join(layout.images, image), 0, base)


def find_layout(root: str, images: str | None) -> Layout:
    """Where pictures and texts lie: images/ and labels/ below the folder or in its own path, or all in one folder."""
    root = os.path.normpath(root)
    inside = [os.path.join(root, name) for name in ("images", "labels")]
    if all(os.path.isdir(folder) for folder in inside):
        return Layout(images or inside[0], inside[1])
    for mine, other in (("images", "labels"), ("labels", "images")):
        beside = _replaced(root, mine, other)
        if beside is not None and os.path.isdir(beside):
            pictures, labels = (root, beside) if mine == "images" else (beside, root)
            return Layout(images or pictures, labels)
    return Layout(images or root, root)


def _replaced(path: str, name: str, other: str) -> str | None:
    parts = path.split(os.sep)
    for index in reversed(range(len(parts))):
        if parts[index] == name:
            return os.sep.join([*parts[:index], other, *parts[index + 1 :]])
    return None


def _listing(path: str) -> dict[str, Any] | None:
    """A data.yaml's content, if it is one."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path, "utf-8"))
    except (yaml.YAMLError, DataError):
        return None
    return content if isinstance(content, dict) and "names" in content else None


def _split_folder(path: str, source: Source) -> str:
    content = _listing(path)
    if content is None:
        raise DataError(f"{path}: no YOLO data.yaml, which has 'names'. Check data.format.")
    key = _ROLES[source.role]
    folder = content.get(key, content.get("valid") if key == "val" else None)
    if not isinstance(folder, str):
        raise DataError(f"{path}: {key!r} names no folder but {shown(folder)}. Name the folder in data.{source.role}.")
    root = os.path.join(os.path.dirname(path), str(content.get("path") or ""))
    tried = [os.path.normpath(os.path.join(start, folder)) for start in (root, os.path.dirname(path))]
    # Exported sets often say ../train/images and mean a folder beside data.yaml.
    tried.append(os.path.normpath(os.path.join(os.path.dirname(path), folder.removeprefix("../"))))
    found = next((folder for folder in tried if os.path.isdir(folder)), None)
    if found is None:
        raise DataError(f"{path}: {key}={folder!r} is no folder (tried {', '.join(dict.fromkeys(tried))}). Correct it.")
    return found


def _names_file(labels: str, root: str) -> str | None:
    """The nearest file that names the classes: beside the texts, or in the two folders above."""
    folders = [labels, os.path.normpath(root)]
    for folder in (os.path.abspath(labels), os.path.abspath(root)):
        folders += [os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))]
    for folder in folders:
        for name in (*_NAME_LISTS, *files_in(folder, _NAMES)):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
        for name in files_in(folder, _YAML):
            if _listing(os.path.join(folder, name)) is not None:
                return os.path.join(folder, name)
    return None


def _class_names(layout: Layout, source: Source) -> Sequence[str]:
    is_yaml = os.path.isfile(source.path)
    file = source.path if is_yaml else _names_file(layout.labels, source.path)
    if file is None:
        raise DataError(
            f"{source.path}: no file names the classes ({', '.join(_NAME_LISTS)}, *.names or data.yaml). "
            "Write classes.txt, one name a line, beside the label files."
        )
    if not file.lower().endswith(tuple(_YAML)):
        return [line.strip() for line in read_text(file, source.config.encoding).splitlines() if line.strip()]
    names = (_listing(file) or {})["names"]
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: names is {shown(names)}, not a list of texts. Quote names that look like numbers.")
    return names


def _objects(file: str, names: Sequence[str], source: Source) -> tuple[list[dict[str, Any]] | None, list[str]]:
    """What each line says; None when every line was dropped."""
    label: list[dict[str, Any]] = []
    places: list[str] = []
    lines = read_text(file, source.config.encoding).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label.append(_object(line.split(), names, source.task))
            places.append(f"{file}:{number}")
        except ValueError as error:
            source.faults.drop("unreadable annotation", f"{file}:{number}", str(error))
    lost = not label and any(line.strip() for line in lines)
    return (None if lost else label), places


def _object(words: list[str], names: Sequence[str], task: str) -> dict[str, Any]:
    if not words[0].isdecimal():
        raise ValueError(f"the class number is {shown(words[0])}, not a whole number")
    if int(words[0]) >= len(names):
        raise ValueError(f"class number {words[0]}, but only {len(names)} classes are named, from 0 on")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{error}: {shown(' '.join(words))}") from None
    if task == "image_instance_segmentation":
        if len(numbers) < 6:
            raise ValueError(f"{len(numbers)} numbers are no polygon of three points: {shown(' '.join(words))}")
        return {"label": names[int(words[0])], "polygon": [numbers]}
    if len(numbers) != 4:
        raise ValueError(f"{len(numbers)} numbers behind the class, not x, y, width and height")
    x, y, width, height = numbers
    sides = {"topX": x - width / 2, "topY": y - height / 2, "bottomX": x + width / 2, "bottomY": y + height / 2}
    return {"label": names[int(words[0])], **sides}
