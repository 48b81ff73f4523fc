"""Augmentation pipelines in YAML: a list of names with their parameters, or what albumentations itself saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lightning_automl_vision.errors import ConfigError

_CLASS, _CHILDREN = "__class_fullname__", "transforms"
_FORM = "Write a list such as `- HorizontalFlip: {p: 0.5}`, or a pipeline saved by albumentations"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One transform by name; ``steps`` are those that it chooses from or runs, ``place`` is its file and line."""

    name: str
    parameters: Mapping[str, Any]
    steps: Sequence[Step] | None
    place: str


def read_pipeline(file: str) -> list[Step]:
    """The steps of a pipeline, in order; which names and parameters there are is not known here."""
    try:
        with open(file, encoding="utf-8") as stream:
            loader = yaml.SafeLoader(stream.read())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"augment.file={file} cannot be read: {reason}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(file, error)) from None
    try:
        return _Reader(file, loader).pipeline()
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(file, error)) from None
    finally:
        loader.dispose()


def _not_yaml(file: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{file}:{mark.line + 1}" if mark else file
    return f"{place}: not YAML ({getattr(error, 'problem', None) or 'unreadable'}). {_FORM}."


class _Reader:
    def __init__(self, file: str, loader: yaml.SafeLoader) -> None:
        self._file = file
        self._loader = loader

    def pipeline(self) -> list[Step]:
        root = self._loader.get_single_node()
        saved = self._entries(root).get("transform") if isinstance(root, yaml.MappingNode) else None
        if saved is not None:
            return [self._step(saved)]
        if not isinstance(root, yaml.SequenceNode):
            raise ConfigError(f"{self._file}: it holds no list of transforms. {_FORM}.")
        return self._steps(root)

    def _steps(self, node: yaml.Node) -> list[Step]:
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigError(f"{self._place(node)}: a list of transforms is expected. {_FORM}.")
        return [self._step(item) for item in node.value]

    def _step(self, node: yaml.Node) -> Step:
        if isinstance(node, yaml.ScalarNode) and isinstance(name := self._value(node), str):
            return Step(name=name, parameters={}, steps=None, place=self._place(node))
        if isinstance(node, yaml.MappingNode):
            entries = self._entries(node)
            if _CLASS in entries:
                return self._described(str(self._value(entries.pop(_CLASS))).rpartition(".")[2], entries, node)
            if len(entries) == 1:
                return self._short(*next(iter(entries.items())), node)
        raise ConfigError(f"{self._place(node)}: this is not one transform. {_FORM}.")

    def _short(self, name: str, value: yaml.Node, node: yaml.Node) -> Step:
        if isinstance(value, yaml.SequenceNode):
            return Step(name=name, parameters={}, steps=self._steps(value), place=self._place(node))
        if isinstance(value, yaml.MappingNode):
            return self._described(name, self._entries(value), node)
        if self._value(value) is None:
            return Step(name=name, parameters={}, steps=None, place=self._place(node))
        raise ConfigError(f"{self._place(node)}: {name} has no named parameters. {_FORM}.")

    def _described(self, name: str, entries: dict[str, yaml.Node], node: yaml.Node) -> Step:
        children = entries.pop(_CHILDREN, None)
        return Step(
            name=name,
            parameters={key: self._value(value) for key, value in entries.items()},
            steps=None if children is None else self._steps(children),
            place=self._place(node),
        )

    def _entries(self, node: yaml.MappingNode) -> dict[str, yaml.Node]:
        return {str(self._value(key)): value for key, value in node.value}

    def _value(self, node: yaml.Node) -> Any:
        return self._loader.construct_object(node, deep=True)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"
