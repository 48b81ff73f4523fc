"""The samplers by name. One seed gives one sequence of draws, however a sweep was stopped and resumed."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from optuna import __version__
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest

_SEEDS = 2**32
_STARTUP = 10
DRAWS = "draws"  # of a trial whose ticket was drawn before: how often
_TICKETS = 1_000_000  # more than a sweep has trials
# An odd factor keeps the seeds of all trials apart.
_SPREAD = 0x9E3779B1
# Optuna 4 draws what is one of several names at random.
_SEQUENCES_CHOOSE = not __version__.startswith("4.")
# What Optuna does not bring along.
_NEEDED = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "QMCSampler": "scipy"}


def sampler_of(name_or_node: str | Mapping[str, Any], seed: int, *, startup: int = _STARTUP) -> BaseSampler:
    """The sampler of a name, or of a node with a ``_target_``, which takes the seed unless it has its own.

    ``bayesian`` draws at random until so many trials have ended that it has something to learn from.
    """
    if isinstance(name_or_node, Mapping):
        return _from_node(name_or_node, seed)
    if not isinstance(name_or_node, str) or name_or_node not in _SAMPLERS:
        raise ConfigError(
            f"No sampler {name_or_node!r}.{nearest(str(name_or_node), list(_SAMPLERS))} There are"
            f" {', '.join(_SAMPLERS)}; any other of Optuna is {{_target_: optuna.samplers.NAME}}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _SAMPLERS[name_or_node](seed, startup)


class SeededByTrial(BaseSampler):
    """Each trial is drawn by a sampler of its own, seeded by its ticket: whatever ran before or beside it."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        first = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4])
        # Trials ask one after the other; what is forgotten is made again.
        self._of = lru_cache(maxsize=128)(lambda number: make((first + number * _SPREAD) % _SEEDS))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(_seed_of(trial)).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(_seed_of(trial)).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(_seed_of(trial)).sample_independent(study, trial, param_name, param_distribution)


def _seed_of(trial: FrozenTrial) -> int:
    """By its ticket, as its number depends on what was interrupted or drawn again before."""
    return int(trial.user_attrs.get("ticket", trial.number)) + int(trial.user_attrs.get(DRAWS, 0)) * _TICKETS


class Sobol(QMCSampler):
    """A scrambled Sobol sequence over the keys of the first trial; keys of other spaces are drawn at random."""

    def __init__(self, seed: int) -> None:
        _check_package(type(self))
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=SeededByTrial(_random, seed),
            warn_independent_sampling=False,
        )

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        for earlier in study.get_trials(deepcopy=False, states=_STARTED):
            if earlier.number != trial.number and earlier.distributions:
                return {
                    name: law
                    for name, law in earlier.distributions.items()
                    if _SEQUENCES_CHOOSE or not isinstance(law, CategoricalDistribution)
                }
        return {}


class AllHeld(BaseSampler):
    """For a grid, whose tickets hold all values: there is nothing to draw."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ConfigError(
            f"The grid's trial {trial.number} holds no value of {param_name}: it belongs to another space."
            " Give another output_dir, or the space that the sweep began with."
        )


_STARTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int, startup: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)


_SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "random": lambda seed, startup: SeededByTrial(_random, seed),
    "sobol": lambda seed, startup: Sobol(seed),
    "bayesian": lambda seed, startup: SeededByTrial(partial(_tpe, startup=startup), seed),
    "grid": lambda seed, startup: AllHeld(),
}


def _from_node(node: Mapping[str, Any], seed: int) -> BaseSampler:
    target = node.get("_target_")
    kind = _class(target)
    if issubclass(kind, GridSampler):
        raise ConfigError(f"search.sampler: {target} knows no conditions and repeats points. Write sampler: grid.")
    _check_package(kind)
    accepted = inspect.signature(kind).parameters
    own = {"seed": seed} if issubclass(kind, TPESampler) else {"seed": seed, "warn_independent_sampling": False}
    defaults = {name: value for name, value in own.items() if name in accepted and name not in node}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler: BaseSampler = instantiate(node, **defaults)
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise ConfigError(f"search.sampler: {target} cannot be made: {reason}. Check its arguments.") from None
    return sampler


def _check_package(kind: type[BaseSampler]) -> None:
    """Optuna asks for what a sampler needs when it draws, which would be in the middle of a sweep."""
    for sampler, package in _NEEDED.items():
        if sampler in (parent.__name__ for parent in kind.__mro__) and find_spec(package) is None:
            raise ConfigError(f"search.sampler: {kind.__name__} needs the package {package}. pip install {package}.")


def _class(target: Any) -> type[BaseSampler]:
    try:
        kind = resolve_name(target)
    except Exception:  # whatever an import raises
        kind = None
    if not isinstance(kind, type) or not issubclass(kind, BaseSampler):
        example = "{_target_: optuna.samplers.CmaEsSampler}"
        raise ConfigError(f"search.sampler: _target_={target} is no sampler of Optuna. Write it as {example}.")
    return kind
