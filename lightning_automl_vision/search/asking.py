"""What a command line asks of a sweep: what it tries, how it is drawn, what it may use; or why it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.arguments import is_group
from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import check_ranges
from lightning_automl_vision.run import SWEEP, write
from lightning_automl_vision.search.composing import composed, settings_of
from lightning_automl_vision.search.distributions import Choice
from lightning_automl_vision.search.fixed import NO_TEST, check_fixed, remember_fixed
from lightning_automl_vision.search.like_default import check_something_varies, like_default
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.places import check_places
from lightning_automl_vision.search.planning import Measured
from lightning_automl_vision.search.portfolio import EPOCHS, Candidate
from lightning_automl_vision.search.spaces import Spaces, flat, mapping_of, spaces_of
from lightning_automl_vision.search.sweeper_keys import agreed, agreed_limit, check_keys, policy_asked, sampler_asked
from lightning_automl_vision.search_settings import AroundConfig, SearchConfig
from lightning_automl_vision.typed_nodes import typed_nodes

GRID, AUTOMODE = "grid", "automode"
# What the sweep obeys itself, and no trial is told.
_OF_THE_SWEEP = (
    *("search", "job", "output_dir", "quiet", "data.test"),
    *("hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher", "hydra.mode", "hydra.sweep"),
)
_LIMITS = ("max_trials", "max_concurrent_trials", "timeout_minutes", "trial_timeout_minutes", "max_failure_rate")
_MINUTE = 60.0
_SEED = "training.random_seed="
# So many configurations are composed to see whether they can be.
_MOST_CHECKS = 40
ARGUMENTS = "overrides.txt"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """``trials`` is None where a grid says how many there are.

    Trial 0 is what the command does without the search, unless that cannot be, which ``draws_default`` says; ``first``
    are the parameters of the trials that come first, then those of chance; values ``like_default`` are what trial 0 is,
    where it is none of the space's own. AutoMode has ``candidates`` in place of spaces until it has a plan,
    ``excluded`` with the reasons, what the user has decided, ``given``, and the ``fault`` of the command by itself, if
    it has one; then it knows what each space's trials were ``measured`` to take, and has ``used_seconds`` for that.
    ``devices`` are the most that a trial trains on.
    """

    settings: Settings
    spaces: Spaces
    sampler: Any
    policy: Any
    seed: int
    trials: int | None
    arguments: tuple[str, ...]
    first: tuple[Mapping[str, Any], ...] = ()
    draws_default: bool = False
    like_default: tuple[Mapping[str, Any], ...] = ()
    candidates: tuple[Candidate, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    startup: int | None = None
    stands_in: str = ""  # why trial 0 is not what the command does by itself, if so
    used_seconds: float = 0.0
    devices: int = 1
    storage: Any = field(default=None, repr=False)  # it may hold a password
    study_name: str | None = None

    @property
    def slots(self) -> int:
        """How many trials run at a time."""
        return min(self.settings.limits.max_concurrent_trials, self.trials or len(self.points))

    def planned(self, space: str, values: Mapping[str, Any]) -> float | None:
        """The seconds that a trial of a space should take, where somebody has measured it."""
        measured = self.measured.get(space)
        return None if measured is None else measured.of(values.get(EPOCHS, self.settings.training.number_of_epochs))

    @property
    def is_grid(self) -> bool:
        return bool(self.sampler == GRID)

    @property
    def points(self) -> list[Mapping[str, Any]]:
        """For each trial the parameters that are decided; the others it draws."""
        if self.is_grid:
            points: list[Mapping[str, Any]] = [*self.spaces.grid()]
            return points[: self.trials]
        known = self.first if self.draws_default else ({}, *self.first)
        trials = self.trials or 1
        return [*known, *({} for _ in range(trials - len(known)))][:trials]


def asked_for(config: DictConfig, keys: Mapping[str, Any], arguments: Sequence[str]) -> Asked:
    """Everything that can be refused before a trial begins."""
    from lightning_automl_vision.jobs.checking import check, seeded

    search, best = _search(config), None
    if isinstance(search, AroundConfig):
        from lightning_automl_vision.search.around import around

        best = around(config, search, arguments, _from_outside(config))
        config, search, arguments = best.config, best.search, best.arguments
    if config.job.name not in ("train", "plan"):
        raise ConfigError(
            f"-m: a sweep trains, and lav {config.job.name} does not. Leave -m and what is for a sweep out."
        )
    swept, fixed = _sorted_out(arguments)
    params = {**mapping_of(keys.get("params") or {}, "hydra.sweeper.params"), **swept}
    settings = settings_of(config, fixed)
    check_keys(keys, settings.task)
    trials = agreed_limit("n_trials", settings.limits, keys, arguments)
    jobs = agreed_limit("n_jobs", settings.limits, keys, arguments)
    sampler, own_seed = sampler_asked(keys.get("sampler"), None if search is None else search.seed)
    if search is not None:
        is_usual = best is not None and "search.sampler" not in dict(given(arguments))
        sampler = sampler if sampler and is_usual else agreed("sampler", search.sampler, sampler)
    nothing = search is None and not params and trials is not None
    sampler = sampler or (AUTOMODE if nothing else GRID if trials is None else "bayesian")
    if sampler != GRID and trials is None:
        raise ConfigError("limits.max_trials is not given. Say how many trials there shall be: limits.max_trials=20.")
    settings = replace(settings, limits=replace(settings.limits, max_concurrent_trials=jobs or 1))
    settings = seeded(_with_seed_of(settings))
    seed = int(settings.training.random_seed or 0)
    kept = [text for text in fixed if not _is_of_the_sweep(text) and not text.startswith(_SEED)]
    kept = [*_from_outside(config), *kept, *as_overrides({"training.random_seed": seed})]
    kept += [NO_TEST] if settings.data.test else []  # an experiment may say it too
    asked = Asked(
        settings=settings,
        spaces=Spaces(()),
        sampler=sampler,
        policy=None if search is None else policy_asked(search.early_termination, arguments),
        seed=seed if own_seed is None else own_seed,
        trials=trials,
        arguments=tuple(kept),
        devices=_devices(settings),
        storage=agreed("storage", None if search is None else search.storage, keys.get("storage")),
        study_name=agreed("study_name", None if search is None else search.study_name, keys.get("study_name")),
    )
    if sampler == AUTOMODE:
        return _automatic(asked, config, search, params, fixed)
    spaces = _spaces(search, params)
    first = None if best is None else best.first
    stands_in = "" if first is None else "it is the winner of the sweep that is searched around"
    next_first = () if best is None or best.leader is None else (spaces.fixed_parameters(*best.leader),)
    try:
        if first is None:
            check(_alone(settings))
    except ConfigError as error:  # of what the command does without the search: the space's own defaults take its place
        stands_in = f"the command by itself cannot be: {str(error).rstrip('.')}"
        first = spaces.default_values(spaces.spaces[0].name, {})
        if not any(map(is_group, first)):
            raise
    devices = _check_spaces(spaces, fixed, check)
    alike: tuple[Mapping[str, Any], ...] = ()
    if first is None and not asked.is_grid:
        alike = like_default(spaces, [*fixed, *as_overrides({"training.random_seed": seed})])
        check_something_varies(spaces, alike)
    return replace(
        asked,
        devices=max(devices, asked.devices),
        like_default=alike,
        spaces=spaces,
        first=(*(() if first is None else (spaces.fixed_parameters(spaces.spaces[0].name, first),)), *next_first),
        draws_default=first is not None,
        stands_in=stands_in,
    )


def check_folder(asked: Asked) -> None:
    """A sweep has a folder of its own, and goes on in it."""
    folder = Path(asked.settings.output_dir)
    if (folder / "config.yaml").exists():
        raise ConfigError(f"output_dir={folder} holds a run, not a sweep. Name another folder.")
    if (folder / SWEEP).exists() and asked.settings.resume == "never":
        raise ConfigError(
            f"resume=never: output_dir={folder} holds a sweep, which the same command goes on with. Delete the folder,"
            " or name another."
        )
    check_fixed(asked.settings, folder)


def remember_arguments(asked: Asked) -> None:
    """What every trial is given, the seed that was drawn among it, for whoever goes on in the folder."""
    remember_fixed(asked.settings, Path(asked.settings.output_dir))
    write(Path(asked.settings.output_dir) / ARGUMENTS, "".join(f"{text}\n" for text in asked.arguments))


def _search(config: DictConfig) -> SearchConfig | None:
    search = OmegaConf.to_object(config["search"]) if config.get("search") is not None else None
    if search is not None and not isinstance(search, SearchConfig):
        raise ConfigError(
            "search is no group that a sweep knows. Write +search=random, grid, bayesian, sobol or automode."
        )
    if search is not None:
        check_ranges(search, "search")
    return search


def _automatic(
    asked: Asked, config: DictConfig, search: SearchConfig | None, params: Mapping[str, Any], fixed: Sequence[str]
) -> Asked:
    """The candidates that can be, with what the user has decided; which of them are worth a trial, a plan says."""
    from lightning_automl_vision.jobs.checking import check
    from lightning_automl_vision.search.candidates import candidates_for

    if params or (search is not None and search.spaces is not None):
        raise ConfigError(
            f"search.sampler={AUTOMODE} chooses what is tried itself. Leave search.spaces and values with commas out,"
            " or take another sampler, such as bayesian."
        )
    found, fault = candidates_for(asked.settings, config, fixed, search or SearchConfig()), ""
    try:
        check(_alone(asked.settings))
    except ConfigError as error:  # of the command by itself: a candidate may do what its model cannot
        fault = str(error)
        if not any(_can_be(candidate.first_values, fixed, check) for candidate in found.candidates):
            raise
    return replace(asked, candidates=found.candidates, excluded=found.excluded, given=found.given, fault=fault)


def _can_be(values: Mapping[str, Any], fixed: Sequence[str], check: Callable[[Settings], object]) -> bool:
    try:
        _check_trial(values, fixed, check)
    except ConfigError:
        return False
    return True


def _with_seed_of(settings: Settings) -> Settings:
    """A sweep that goes on has the seed that was drawn for it."""
    file = Path(settings.output_dir) / ARGUMENTS
    if settings.training.random_seed is not None or not file.exists():
        return settings
    lines = file.read_text(encoding="utf-8").splitlines()
    seed = next((line for line in lines if line.startswith(_SEED)), None)
    if seed is None:  # a single run's, whose seed an experiment gave
        return settings
    return replace(settings, training=replace(settings.training, random_seed=int(seed.removeprefix(_SEED))))


def _from_outside(config: DictConfig) -> list[str]:
    """Where else configurations lie, as the command line said."""
    hydra = config.get("hydra")
    if hydra is None:
        hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None:
        return []
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    searched = [text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
    return [*(word for folder in folders for word in ("--config-dir", folder)), *searched]


def _check_spaces(spaces: Spaces, fixed: Sequence[str], check: Callable[[Settings], object]) -> int:
    """Every choice and both ends of every range, beside the usual values of the others: what can never be is refused.

    Gives the most devices that one of them trains on.
    """
    tried, devices = 0, 1
    for space in spaces.spaces:
        for key in (*space.fixed, *space.free):
            if _is_of_the_sweep(f"{key}="):
                raise ConfigError(f"{key} is the sweep's own, and no trial is told. Leave it out of the space.")
        check_places(space)
        usual = spaces.default_values(space.name, {})
        points = [usual]
        for key, law in space.free.items():
            others = law.grid() if isinstance(law, Choice) else law.ends()
            points += [{**usual, key: value} for value in others if value != usual[key]]
        for values in points[: _MOST_CHECKS - tried]:
            devices = max(devices, _devices(_check_trial(values, fixed, check)))
            tried += 1
    return devices


def _devices(settings: Settings) -> int:
    if settings.trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={settings.trainer.num_nodes}: a trial has one machine. Leave it out; with a launcher"
            " trials run on several machines, each on trainer.devices of one."
        )
    return settings.trainer.devices


def _check_trial(values: Mapping[str, Any], fixed: Sequence[str], check: Callable[[Settings], object]) -> Settings:
    """That of a trial; ConfigError for one that can never be."""
    settings = settings_of(composed([*fixed, *as_overrides(values)]), fixed)
    check(_alone(settings))
    return settings


def _alone(settings: Settings) -> Settings:
    """As a training that is no trial."""
    usual = replace(settings.limits, max_trials=1, max_concurrent_trials=1, trial_timeout_minutes=None)
    return replace(settings, limits=usual)


def _spaces(search: SearchConfig | None, params: Mapping[str, Any]) -> Spaces:
    asked = None if search is None else search.spaces
    if asked is not None and params:
        raise ConfigError(
            f"search.spaces and {', '.join(params)} both say what is tried. Put all of it into search.spaces, or leave"
            " that out."
        )
    if asked is None and not params:
        raise ConfigError(
            "Nothing varies: give a key several values, such as -m training.learning_rate=0.01,0.02, or search.spaces;"
            " an experiment that has some comes after +search."
        )
    found = flat(params, _choices_of) if asked is None else spaces_of(asked, _choices_of)
    if not any(space.fixed or space.free for space in found.spaces):
        raise ConfigError("Nothing varies: search.spaces has no key. Give a space some, or leave +search out.")
    return found


def _choices_of(group: str) -> list[str]:
    """Of each choice one name, so that glob() finds none twice."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    own = ((name, getattr(typed_nodes().get((group, name)), "name", name)) for name in options)
    return [name for name, called in own if name == called and not name.startswith("default_for_")]


def _sorted_out(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The keys that have several values, with what was written; and the other arguments."""
    swept, fixed = {}, []
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    for text, override in zip(arguments, parsed, strict=True):
        if override.is_sweep_override():
            key, _, value = text.partition("=")
            swept[key] = value
        else:
            fixed.append(text)
    return swept, fixed


def _is_of_the_sweep(text: str) -> bool:
    name = text.lstrip("+~").partition("=")[0]
    names = (*_OF_THE_SWEEP, *(f"limits.{limit}" for limit in _LIMITS))
    return any(name == own or name.startswith(f"{own}.") for own in names)
