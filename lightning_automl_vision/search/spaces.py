"""What a sweep may try: one space or several, each with fixed values and free keys of its own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.distributions import Distribution, Parameter, as_text, same
from lightning_automl_vision.search.overrides import dotted
from lightning_automl_vision.search.reading import ChoicesOf, distribution_of

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# The name under which Optuna draws the space, where there are several.
SPACE = "space"
_LARGEST_GRID = 100_000
_KEY = re.compile(r"\+{0,2}[A-Za-z_$][\w$./@-]*\Z", re.ASCII)
_NAME = re.compile(r"[\w.-]+\Z")


@dataclass(frozen=True, kw_only=True)
class Space:
    """Keys that keep one value and keys that are free."""

    name: str
    fixed: Mapping[str, Any]
    free: Mapping[str, Distribution]

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether these are values of exactly the space's keys, all of which it can draw."""
        return values.keys() == self.fixed.keys() | self.free.keys() and not any(
            self.fault(key, value) for key, value in values.items()
        )

    def fault(self, key: str, value: Any) -> str | None:
        """Why the space never gives a key this value, or None."""
        if key in self.free:
            try:
                self.free[key].parameter(value)
            except ConfigError as error:
                return str(error)
        elif key not in self.fixed:
            return f"{key}={value!r}: the space {self.name!r} does not set {key}. Leave it out."
        elif not same(self.fixed[key], value):
            return f"{key}={value!r}: the space {self.name!r} keeps {key}={self.fixed[key]!r}. Leave it out."
        return None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a trial tries: its space and the value of each of the space's keys, by hydra's names."""

    space: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Spaces:
    """The spaces of a sweep; a trial first chooses one, then the values of its keys."""

    spaces: tuple[Space, ...]

    def __getitem__(self, name: str) -> Space:
        for space in self.spaces:
            if space.name == name:
                return space
        raise ConfigError(f"No space {name!r}. There are {', '.join(space.name for space in self.spaces)}.")

    def suggest(self, trial: BaseTrial) -> Drawn:
        """Draw the values of a trial, or take those that its ticket holds."""
        names = [space.name for space in self.spaces]
        space = self[trial.suggest_categorical(SPACE, names)] if self._several else self.spaces[0]
        free = {key: law.suggest(trial, self._name(space, key)) for key, law in space.free.items()}
        return Drawn(space=space.name, values={**space.fixed, **free})

    def grid(self) -> list[dict[str, Parameter]]:
        """All points as Optuna's parameters, none of which leads to the values of an earlier one."""
        return list(self.points().values())

    def points(self) -> dict[str, dict[str, Parameter]]:
        """Those by the text of their values.

        The spaces come in their order, and within a space the last key changes fastest.
        """
        counts = [math.prod(len(law.grid()) for law in space.free.values()) for space in self.spaces]
        if sum(counts) > _LARGEST_GRID:
            raise ConfigError(
                f"The grid has {sum(counts)} points, and a sweep at most 1000 trials."
                " Give fewer values, or take search.sampler=random."
            )
        points: dict[str, dict[str, Parameter]] = {}
        for space in self.spaces:
            for values in product(*(law.grid() for law in space.free.values())):
                drawn = dict(zip(space.free, values, strict=True))
                points.setdefault(as_text({**space.fixed, **drawn}), self.fixed_parameters(space.name, drawn))
        return points

    def fixed_parameters(self, space: str, values: Mapping[str, Any]) -> dict[str, Parameter]:
        """Optuna's parameters with which a trial draws the space and these values; keys left out stay free."""
        chosen = self[space]
        for key, value in values.items():
            fault = chosen.fault(key, value)
            if fault:
                raise ConfigError(fault)
        own = {self._name(chosen, key): law.parameter(values[key]) for key, law in chosen.free.items() if key in values}
        return {SPACE: space, **own} if self._several else own

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether one of the spaces has exactly these keys and can draw these values."""
        return any(space.contains(values) for space in self.spaces)

    def default_values(self, space: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """A full set of values: what is fixed, then the defaults where the space allows them, then the middle."""
        chosen = self[space]
        free = {
            key: defaults[key] if key in defaults and law.contains(defaults[key]) else law.middle()
            for key, law in chosen.free.items()
        }
        return {**chosen.fixed, **free}

    def fingerprint(self) -> str:
        """A hash that changes with what can be drawn, not with how it was written or the order of keys."""
        content = [
            [space.name, dict(space.fixed), {key: law.as_dict() for key, law in space.free.items()}]
            for space in self.spaces
        ]
        return hashlib.sha256(as_text(content).encode()).hexdigest()[:16]

    def _name(self, space: Space, key: str) -> str:
        return f"{space.name}/{key}" if self._several else key

    @property
    def _several(self) -> bool:
        return len(self.spaces) > 1


def spaces_of(config: Mapping[str, Any], choices_of: ChoicesOf | None = None) -> Spaces:
    """The spaces of a mapping from their names to their keys, each key a fixed value or a distribution."""
    found = []
    for name, keys in mapping_of(config, "search.spaces").items():
        if not isinstance(name, str) or not _NAME.match(name):
            raise ConfigError(f"search.spaces: {name!r} is no name for a space. Take letters, digits, _, . and -.")
        if not isinstance(keys, Mapping):
            raise ConfigError(f"search.spaces.{name} must be a mapping of keys, got {keys!r}.")
        found.append(_space(name, keys, choices_of))
    if not found:
        raise ConfigError("search.spaces is empty. Give a space, such as {resnets: {model: 'resnet18,resnet50'}}.")
    return Spaces(tuple(found))


def flat(parameters: Mapping[str, Any], choices_of: ChoicesOf | None = None) -> Spaces:
    """One space without a name, as ``params`` and the sweeps of a command line make it."""
    return Spaces((_space("", mapping_of(parameters, "hydra.sweeper.params"), choices_of),))


def _space(name: str, keys: Mapping[Any, Any], choices_of: ChoicesOf | None) -> Space:
    fixed: dict[str, Any] = {}
    free: dict[str, Distribution] = {}
    for key, value in dotted(keys, whole="type"):
        where = f" of the space {name!r}" if name else ""
        if not isinstance(key, str) or not _KEY.match(key):
            raise ConfigError(f"{key!r}{where} is no key. Write it as training.learning_rate.")
        if key in fixed or key in free:
            raise ConfigError(f"{key}{where} is there twice. Give it once.")
        try:
            read = distribution_of(value, key, choices_of)
        except ConfigError as error:
            raise ConfigError(f"{error}{' Space: ' + name + '.' if name else ''}") from None
        if isinstance(read, Distribution):
            free[key] = read
        else:
            fixed[key] = read
    return Space(name=name, fixed=fixed, free=free)


def mapping_of(node: Any, name: str) -> dict[Any, Any]:
    """In Python's own types; ConfigError, by the key's name, for what is no mapping."""
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{name}={plain}: must be a mapping; docs/reference.md has examples.")
    return dict(plain)
