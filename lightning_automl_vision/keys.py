"""Typed configuration keys: what each means, what it may be, and what it was called before."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

from lightning_automl_vision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Key:
    """What the documents and the checks say of one configuration key; ``words`` may stand where numbers do."""

    help: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: Sequence[Any] = ()
    words: Sequence[str] = ()
    old: Sequence[str] = ()

    def fault(self, value: Any) -> str | None:
        """Why the value is not allowed, or None."""
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is not None and not self._allows(item):
                return f"must be {self.allowed or 'finite'}"
        return None

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.words and isinstance(value, (bool, str)):
            return value in self.words
        if isinstance(value, (bool, str, dict)):
            return True
        return (
            math.isfinite(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    @property
    def allowed(self) -> str:
        """The range, and the words beside it."""
        return " or ".join([*([self.range] if self.range else []), *self.words])

    @property
    def range(self) -> str:
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        low = f"[{self.minimum:g}" if self.minimum is not None else f"({self.above:g}" if self.above is not None else ""
        high = (
            f"{self.maximum:g}]" if self.maximum is not None else f"{self.below:g})" if self.below is not None else ""
        )
        if low and high:
            return f"in {low}, {high}"
        if low:
            return f"at least {self.minimum:g}" if self.minimum is not None else f"more than {self.above:g}"
        if high:
            return f"at most {self.maximum:g}" if self.maximum is not None else f"less than {self.below:g}"
        return ""


def key(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field for a configuration key; ``limits`` are the fields of Key."""
    metadata = {"key": Key(help=help, **limits)}
    if isinstance(default, (list, dict)) or is_dataclass(default):
        return field(
            default_factory=lambda: type(default)(default) if isinstance(default, (list, dict)) else default,
            metadata=metadata,
        )
    return field(default=default, metadata=metadata)


class DescribedKey(NamedTuple):
    """A key by its full name, and its value: its default where a class is described."""

    name: str
    key: Key
    value: Any
    type: str

    @property
    def allowed(self) -> str:
        kind = _TYPES.get(self.type.removesuffix(" | None"), self.type.removesuffix(" | None"))
        if self.key.choices:
            return self.key.range
        return f"{kind}, {self.key.allowed}" if self.key.allowed else kind


_TYPES = {
    "str": "text",
    "bool": "true or false",
    "int": "integer",
    "int | str": "integer",
    "float": "number",
    "list[float]": "numbers",
    "list[str]": "texts",
    "Any": "see the meaning",
}


def described(node: Any, prefix: str) -> Iterator[DescribedKey]:
    """Each key below a dataclass node or its class."""
    for item in fields(node):
        name = f"{prefix}.{item.name}"
        value = _default(item) if isinstance(node, type) else getattr(node, item.name)
        if is_dataclass(value):
            yield from described(value, name)
        elif "key" in item.metadata:
            yield DescribedKey(name, item.metadata["key"], value, str(item.type))


def _default(item: Any) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def check_ranges(node: Any, prefix: str) -> None:
    """Raise ConfigError for the first value out of its range."""
    for described_key in described(node, prefix):
        fault = described_key.key.fault(described_key.value)
        if fault:
            name = as_written(described_key.name)
            raise ConfigError(f"{name}={described_key.value}: {fault}. {described_key.key.help}")


def as_written(name: str) -> str:
    """A verb's own key, or an argument with one, as the command line has it after the verb."""
    return name.removeprefix("job.")


def nearest(word: str, known: Sequence[str]) -> str:
    """`` Did you mean …?``, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f" Did you mean {near[0]!r}?" if near else ""
