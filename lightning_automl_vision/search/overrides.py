"""Values as Hydra override texts that compose back to exactly these values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lightning_automl_vision.arguments import GROUPS, check_one_choice, is_group
from lightning_automl_vision.config_errors import known_keys
from lightning_automl_vision.errors import ConfigError

_PLAIN_CHOICE = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[A-Za-z_][\w./-]*\Z", re.ASCII | re.IGNORECASE)
# What hydra's grammar lets a backslash stand before, outside of quotes.
_SPECIAL = re.compile(r"[\\()\[\]{}:=, \t]")
_MISSING = "???"


def as_overrides(values: Mapping[str, Any], *, literal: bool = True) -> list[str]:
    """One text for each key; choices of config groups come first and without quotes where they need none.

    ``${x}`` stays the text it is; with ``literal=False`` it is an interpolation. As on any command line, a mapping is
    merged into the one that is there.
    """
    pairs = list(dotted(values))
    groups = [f"{_added(key)}={_choice(value, key)}" for key, value in pairs if is_group(key)]
    return groups + [f"{key}={quoted(value, key, literal=literal)}" for key, value in pairs if not is_group(key)]


def dotted(values: Mapping[str, Any], *, whole: str | None = None) -> Iterator[tuple[str, Any]]:
    """Nested mappings of config groups as full keys; ``name`` within a group is the group's choice.

    A mapping that holds the key ``whole`` is a value.
    """
    for key, value in values.items():
        if not isinstance(value, Mapping) or whole in value or not _has_keys_of_its_own(key):
            yield key, value
            continue
        below = dict(value)
        if is_group(key) and "name" in below:
            yield key, below.pop("name")
        yield from dotted({f"{key}.{name}": item for name, item in below.items()}, whole=whole)


def quoted(value: Any, key: str, *, literal: bool = True) -> str:
    """The value in hydra's grammar, whatever characters it holds; ``key`` is for the message where there is no way."""
    if isinstance(value, (str, PathLike)):
        text = fspath(value)
        return _in_quotes(_without_meaning(text, key) if literal else text)
    if isinstance(value, Mapping):
        pairs = (f"{_mapping_key(name, key)}: {quoted(item, key, literal=literal)}" for name, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(quoted(item, key, literal=literal) for item in value) + "]"
    return _scalar(value, key)


def _scalar(value: Any, key: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    raise ConfigError(f"{key}={value!r}: a {type(value).__name__} has no form on the command line. Give a plain value.")


def _without_meaning(text: str, key: str) -> str:
    """An interpolation with the backslash that makes it text; those before it are doubled, and only those."""
    if text == _MISSING:
        raise ConfigError(f"{key}={_MISSING}: this text stands for a value that is missing. Give another.")
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def _in_quotes(text: str) -> str:
    """In single quotes; hydra halves the backslashes before a quote, and only those."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def _mapping_key(name: Any, key: str) -> str:
    """Hydra has no quotes for the keys of a mapping; some texts cannot be one."""
    text = _SPECIAL.sub(r"\\\g<0>", name) if isinstance(name, str) else _scalar(name, key)
    try:
        read = OverridesParser.create().parse_rule(text, "dictKey")
    except (HydraException, AttributeError):  # the latter for an empty text
        read = None
    if read != name or type(read) is not type(name):
        raise ConfigError(f"{key}: {name!r} cannot be a key within a value on the command line. Use a YAML file.")
    return text


def _choice(value: Any, key: str) -> str:
    """Null, a number or a boolean is looked up by the name that it would be, and not found."""
    if isinstance(value, str) and _PLAIN_CHOICE.match(value):
        return value
    if isinstance(value, (list, tuple)):
        check_one_choice(key, value)
    return quoted(value if isinstance(value, (str, list, tuple, Mapping)) else _scalar(value, key), key)


def _added(key: str) -> str:
    """Experiments are not in the defaults, so that they are added."""
    return "+experiment" if key == "experiment" else key


def _has_keys_of_its_own(key: str) -> bool:
    """Whether what is below the key are keys, and not a value that is a mapping."""
    name = str(key).lstrip("+")
    return name.partition(".")[0] in GROUPS and name not in dict(known_keys())
