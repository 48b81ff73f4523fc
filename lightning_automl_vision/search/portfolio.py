"""What AutoMode may try: candidates in YAML that anyone can read and replace, the best bets first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.arguments import is_group
from lightning_automl_vision.config import config_folders
from lightning_automl_vision.config_errors import known_keys, unknown_key
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.search.distributions import Choice
from lightning_automl_vision.search.spaces import Space, Spaces, spaces_of

FOLDER = "portfolio"
EPOCHS, MODEL, PRETRAINED = "training.number_of_epochs", "model", "model.pretrained"
_KEYS = ("when", "epochs", "first", "space")
_RANGES = ("images", "object_size")
_CONDITIONS = ("device", "published", *_RANGES)
_DEVICES = ("cpu", "gpu")
OTHER_DEVICE = "it is for a"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a choice can depend on; ``object_size`` is the median object's, as a share of its picture's long side."""

    device: str
    images: int
    object_size: float | None = None


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How many a candidate needs at least, takes by itself, and can make use of."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A space with its first trial's values; worth a trial ``when`` all of that holds."""

    space: Space
    epochs: Epochs
    first: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.space.name

    @property
    def where_none_is_published(self) -> bool:
        """Whether it is worth a trial only where no published weights can be had."""
        return self.when.get("published") is False

    @property
    def first_values(self) -> dict[str, Any]:
        """Every key of its first trial."""
        return Spaces((self.space,)).default_values(self.name, self.first)

    def misses(self, facts: Facts) -> str | None:
        """The condition that does not hold, in words."""
        if (device := self.when.get("device", facts.device)) != facts.device:
            return f"{OTHER_DEVICE} {device}"
        for name in _RANGES:
            value = getattr(facts, name)
            low, high = self.when.get(name, (value, value))
            if value is not None and not low <= value <= high:
                return f"it is for {name.replace('_', ' ')} from {low:g} to {high:g}, here {value:.3g}"
        return None

    def given(self, values: Mapping[str, Any]) -> Candidate:
        """The same with what the user has decided, which is no longer the candidate's to say."""
        space = replace(
            self.space,
            fixed={key: value for key, value in self.space.fixed.items() if key not in values},
            free={key: law for key, law in self.space.free.items() if key not in values},
        )
        return replace(self, space=space, first={key: value for key, value in self.first.items() if key not in values})

    def trained_for(self, epochs: Sequence[int]) -> Candidate:
        """The same with one number of epochs or a choice of several, of which the first trial takes the first."""
        if len(epochs) == 1:
            return replace(self, space=replace(self.space, fixed={**self.space.fixed, EPOCHS: epochs[0]}))
        law = Choice(key=EPOCHS, values=list(epochs))
        return replace(
            self,
            space=replace(self.space, free={**self.space.free, EPOCHS: law}),
            first={**self.first, EPOCHS: epochs[0]},
        )


def read_portfolio(task: str, file: str | None = None) -> list[Candidate]:
    """The candidates of a file, or those that this package and its plugins bring for a task."""
    if file is not None:
        return _read(Path(file))
    files = [folder / FOLDER / f"{task}.yaml" for folder in config_folders()]
    found = [candidate for path in files if path.is_file() for candidate in _read(path)]
    if not found:
        raise ConfigError(
            f"No portfolio says what to try for {task}. Name one by search.portfolio=FILE, or give search.spaces."
        )
    return found


def _read(path: Path) -> list[Candidate]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise ConfigError(f"search.portfolio={path}: {error.strerror}. Name a file of candidates.") from None
    except (OmegaConfBaseException, ValueError, SyntaxError) as error:
        raise ConfigError(f"search.portfolio={path}: {str(error).splitlines()[0]}.") from None
    except Exception as error:  # yaml has no class of its own that omegaconf would raise
        raise ConfigError(f"search.portfolio={path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"search.portfolio={path} holds no candidates. conf/{FOLDER}/ has examples.")
    return [_candidate(str(name), node, path) for name, node in content.items()]


def _candidate(name: str, node: Any, path: Path) -> Candidate:
    where = f"search.portfolio={path}: {name}"
    if not isinstance(node, Mapping) or not isinstance(node.get("space"), Mapping):
        raise ConfigError(f"{where} has no space. Give one, such as space: {{model: resnet18}}.")
    for key in node:
        if key not in _KEYS:
            raise ConfigError(f"{where} has no key {key!r}.{nearest(str(key), _KEYS)} There are {', '.join(_KEYS)}.")
    space = _space(name, node["space"], where)
    if not isinstance(space.fixed.get(MODEL), str):
        raise ConfigError(f"{where}.space names no model. Give one, such as model: resnet18.")
    if EPOCHS in {**space.fixed, **space.free}:
        raise ConfigError(f"{where}.space says {EPOCHS}, which epochs: [least, usual, most] is for. Leave it out.")
    first = node.get("first") or {}
    if not isinstance(first, Mapping):
        raise ConfigError(f"{where}.first={first!r}: give a mapping from keys to values.")
    for key, value in first.items():
        if key not in space.free:
            raise ConfigError(f"{where}.first: {key} is no free key of its space. Leave it out.")
        if fault := space.fault(key, value):
            raise ConfigError(f"{where}.first: {fault}")
    return Candidate(space=space, epochs=_epochs(node.get("epochs"), where), first=first, when=_when(node, where))


def _space(name: str, keys: Mapping[Any, Any], where: str) -> Space:
    try:
        space = spaces_of({name: keys}).spaces[0]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    known = dict(known_keys())
    for key in (*space.fixed, *space.free):
        if not (is_group(key) or key.startswith("+") or any(f"{key}.".startswith(f"{own}.") for own in known)):
            raise ConfigError(f"{where}.space: {unknown_key(key)}")
    return space


def _epochs(numbers: Any, where: str) -> Epochs:
    whole = isinstance(numbers, list) and len(numbers) == 3 and all(type(number) is int for number in numbers)
    if not whole or not 0 < numbers[0] <= numbers[1] <= numbers[2]:
        raise ConfigError(f"{where}.epochs={numbers!r}: give three numbers that do not fall, such as [3, 15, 30].")
    return Epochs(least=numbers[0], usual=numbers[1], most=numbers[2])


def _when(node: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    when: Any = node.get("when") or {}
    if not isinstance(when, Mapping):
        raise ConfigError(f"{where}.when={when!r}: give a mapping from conditions to values.")
    for name, value in when.items():
        if name not in _CONDITIONS:
            raise ConfigError(
                f"{where}.when knows no {name!r}.{nearest(str(name), _CONDITIONS)} There are {', '.join(_CONDITIONS)}."
            )
        if name in _RANGES and not _is_range(value):
            raise ConfigError(f"{where}.when.{name}={value!r}: give the least and the most, such as [0, 1000].")
        if name == "device" and value not in _DEVICES:
            raise ConfigError(f"{where}.when.device={value!r}: must be cpu or gpu.")
        if name == "published" and not isinstance(value, bool):
            raise ConfigError(f"{where}.when.published={value!r}: must be true or false.")
    return when


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)
    return bool(numbers and value[0] <= value[1])
