"""``+search=around runs=SWEEP``: a space around the best trials of a sweep, and all else as that sweep had it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_automl_vision.arguments import is_group
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.composing import composed
from lightning_automl_vision.search.distributions import Choice
from lightning_automl_vision.search.fixed import NO_TEST, fixed_in
from lightning_automl_vision.search.narrowing import narrowed
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.reading import distribution_of
from lightning_automl_vision.search.space_file import document, read_space
from lightning_automl_vision.search.spaces import Space, Spaces
from lightning_automl_vision.search_settings import AroundConfig, SearchConfig
from lightning_automl_vision.task_settings import VALIDATION_LOSS

_BOARD, _ARGUMENTS, _CONFIG = "leaderboard.json", "overrides.txt", "config.yaml"
# Of the trials that are complete: so many in any case, this share of them, and this share where they are tied.
_LEAST, _BEST, _TIED = 3, 1 / 4, 1 / 2
_ALPHA = 0.05
_OF_HYDRA = ("--config-dir", "hydra.searchpath")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A complete one, with its space and the values of that space's keys; None where it was not drawn from any."""

    number: int
    value: float
    tied: bool
    drawn: bool
    space: str | None
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Around:
    """``first`` are the values of the new trial 0, in the first of the spaces; None for what no search has drawn.

    ``leader`` is the best trial, with its space, where another one won.
    """

    config: DictConfig
    search: SearchConfig
    arguments: tuple[str, ...]
    first: Mapping[str, Any] | None
    leader: tuple[str, Mapping[str, Any]] | None


def around(config: DictConfig, search: AroundConfig, arguments: Sequence[str], outside: Sequence[str]) -> Around:
    """What a sweep is asked for in place of a command that names another one; ``outside`` is what hydra was given."""
    folder = _folder(config, search, arguments)
    board = _board(folder)
    spaces, policy = read_space(folder)
    trials = _trials(folder, board, spaces)
    if not trials:
        raise ConfigError(f"runs={folder}: none of its trials is complete, so that there is nothing to search around.")
    kept = _arguments(folder, arguments, outside)
    all_else = _composed(config, kept)
    _check_task(folder, all_else, trials[0])
    winner = next((trial for trial in trials if trial.number == board.get("winner")), trials[0])
    given = {_name(text) for text in arguments}
    found = _without(_narrowed(folder, spaces, best_of(trials), winner, search.widening), given)
    if not any(space.free for space in found.spaces) and len(found.spaces) == 1:
        raise ConfigError(
            f"runs={folder}: its best trials agree in every key, so that nothing is left to be tried around them."
            " Write a space: +search=bayesian search.spaces=…"
        )
    leader = trials[0] if trials[0].number != winner.number else None
    return Around(
        config=all_else,
        search=SearchConfig(
            sampler=search.sampler,
            spaces=OmegaConf.create(document(found)),
            early_termination=policy if search.early_termination is None else search.early_termination,
            seed=search.seed,
        ),
        arguments=kept,
        first=_left(winner.values, given) if winner.drawn else None,
        leader=(leader.space, _left(leader.values, given)) if leader is not None and leader.space else None,
    )


def best_of(trials: Sequence[Trial]) -> list[Trial]:
    """The best quarter, three at least, and those of the better half that cannot be told from the leader."""
    quarter = max(_LEAST, math.ceil(len(trials) * _BEST))
    half = max(quarter, math.ceil(len(trials) * _TIED))
    return [*trials[:quarter], *(trial for trial in trials[quarter:half] if trial.tied)]


def _narrowed(folder: Path, spaces: Spaces, best: Sequence[Trial], winner: Trial, widening: float) -> Spaces:
    """Spaces of none of the best are left out; that of the winner comes first."""
    by_space: dict[str, list[Trial]] = {}
    for trial in (winner, *best):
        if trial.space is not None:
            by_space.setdefault(trial.space, []).append(trial)
    if not by_space:
        raise ConfigError(
            f"runs={folder}: none of its best trials was drawn from its spaces. Write a space of your own."
        )
    return Spaces(tuple(_space(spaces[name], trials, widening) for name, trials in by_space.items()))


def _space(space: Space, trials: Sequence[Trial], widening: float) -> Space:
    fixed, free = dict(space.fixed), {}
    for key, law in space.free.items():
        found = narrowed(law, [trial.values[key] for trial in trials], widening)
        if isinstance(found, Choice) and len(found.values) == 1:
            fixed[key] = found.values[0]
        else:
            free[key] = found
    return Space(name=space.name, fixed=fixed, free=free)


def _without(spaces: Spaces, given: set[str]) -> Spaces:
    """Less the keys that the command line has decided."""
    groups = [key for space in spaces.spaces for key in (*space.fixed, *space.free) if key in given and is_group(key)]
    if groups:
        raise ConfigError(
            f"{groups[0]} is what the sweep has varied, and its best trials say which. Leave it out, or write a space."
        )

    return Spaces(
        tuple(replace(space, fixed=_left(space.fixed, given), free=_left(space.free, given)) for space in spaces.spaces)
    )


def _left(keys: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in given}


def _folder(config: DictConfig, search: AroundConfig, arguments: Sequence[str]) -> Path:
    if not isinstance(config.get("runs"), str):
        raise ConfigError("+search=around searches around the best trials of a sweep. Name its folder: runs=SWEEP.")
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        if override.is_sweep_override():
            key = override.get_key_element()
            raise ConfigError(f"{key} has several values, and +search=around says itself what is tried. Give it one.")
    if search.spaces is not None:
        raise ConfigError("search.spaces: +search=around says itself what is tried. Leave it out.")
    folder = Path(config.runs)
    if not folder.is_dir():
        raise ConfigError(f"runs={folder}: there is no such folder. Name the folder of a sweep.")
    if Path(config.output_dir).absolute() == folder.absolute():
        raise ConfigError(f"output_dir={folder} is the sweep to search around. Name another folder for the new one.")
    return folder


def _board(folder: Path) -> Mapping[str, Any]:
    file = folder / _BOARD
    try:
        board = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(board["primary_metric"], str) and isinstance(board["trials"], list):
            return dict(board)
    except FileNotFoundError:
        raise ConfigError(f"runs={folder} is no sweep: there is no {_BOARD} in it. Name the folder of one.") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{file} is not the leaderboard of a sweep. Repeat the sweep's command, which writes it anew.")


def _trials(folder: Path, board: Mapping[str, Any], spaces: Spaces) -> list[Trial]:
    """Those that are complete, the best first."""
    sign = 1 if board["primary_metric"] == VALIDATION_LOSS else -1
    rows = [row for row in board["trials"] if row["state"] == "complete" and row["value"] is not None]
    return [_trial(folder, row, spaces) for row in sorted(rows, key=lambda row: (sign * row["value"], row["number"]))]


def _trial(folder: Path, row: Mapping[str, Any], spaces: Spaces) -> Trial:
    drawn = dict(_pair(text) for text in row["overrides"])
    used = _used(folder, row["number"])
    found = next(((space, values) for space in spaces.spaces if (values := _values(space, drawn, used))), None)
    p_value = row.get("p_value")
    tied = row.get("tied")
    return Trial(
        number=row["number"],
        value=row["value"],
        tied=bool(tied) if tied is not None else p_value is not None and p_value > _ALPHA,
        drawn=bool(drawn),
        space=found[0].name if found else None,
        values=found[1] if found else {},
    )


def _used(folder: Path, number: int) -> Any:
    file = folder / f"trial_{number:04}" / _CONFIG
    try:
        return OmegaConf.load(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{file} cannot be read: {reason}. Restore it, or name another sweep.") from None


def _values(space: Space, drawn: Mapping[str, Any], used: Any) -> dict[str, Any] | None:
    """What a trial had for each key of a space, if that could have drawn it."""
    keys = {*space.fixed, *space.free}
    if drawn and drawn.keys() != {key.lstrip("+") for key in keys}:
        return None
    values = {key: _value(key.lstrip("+"), drawn, used) for key in keys}
    return values if space.contains(values) else None


def _value(key: str, drawn: Mapping[str, Any], used: Any) -> Any:
    """The choice of a group as it was drawn, every other value as it was used."""
    there = OmegaConf.select(used, key)
    there = OmegaConf.to_container(there) if OmegaConf.is_config(there) else there
    if is_group(key):
        return drawn.get(key, there.get("name") if isinstance(there, dict) else there)
    return there


def _pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key.lstrip("+"), distribution_of(value, key)


def _arguments(folder: Path, arguments: Sequence[str], outside: Sequence[str]) -> tuple[str, ...]:
    """Those of the other sweep, where the command line does not say otherwise, and then its own."""
    lines = (folder / _ARGUMENTS).read_text(encoding="utf-8").splitlines()
    words = iter(lines)
    old = []
    for word in words:
        if not word.startswith(_OF_HYDRA):
            old.append(word)
            continue
        needed = [word, next(words, "")] if word == _OF_HYDRA[0] else [word]
        if needed[-1] not in outside:
            raise ConfigError(
                f"runs={folder} was begun with {' '.join(needed)}, where configurations lie. Begin with it too."
            )
    given = {_name(text) for text in arguments}
    own = [text for text in arguments if _name(text) != "runs"]
    if NO_TEST in old:
        old.remove(NO_TEST)
        old += as_overrides({"data.test": test}) if (test := fixed_in(folder).get("data.test")) else []
    return (*(text for text in old if _name(text) not in given), *own)


def _composed(config: DictConfig, arguments: Sequence[str]) -> DictConfig:
    found = composed(arguments)
    if "hydra" in config:
        with open_dict(found):
            found.hydra = config.hydra
    return found


def _check_task(folder: Path, composed: DictConfig, best: Trial) -> None:
    task = _used(folder, best.number).task.name
    if composed.task.name != task:
        raise ConfigError(f"task={composed.task.name}: runs={folder} is of the task {task}. Leave task out.")


def _name(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]
