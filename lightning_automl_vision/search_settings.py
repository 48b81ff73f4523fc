"""The typed nodes of the group ``search``: what is tried, how it is drawn, and which trials end early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_automl_vision.keys import key

SAMPLERS = ("random", "grid", "bayesian", "sobol", "automode")


@dataclass
class SearchConfig:
    sampler: Any = key(
        "random",
        "How values are drawn: random, grid (every combination once), bayesian or sobol; any sampler of Optuna by its"
        " `_target_`; or automode, which chooses what is tried as well.",
        old=("sampling_algorithm",),
    )
    spaces: Any = key(
        None,
        "Sub-spaces by name, each with its own keys: a fixed value, or a distribution such as"
        " {type: loguniform, min: 1e-4, max: 1e-2} or `choice(a,b)`. Without them the keys that were given several"
        " values on the command line are the space.",
        old=("search_space",),
    )
    early_termination: Any = key(
        None,
        "Which trials end early: {type: bandit, slack_factor: 0.2}, {type: median_stopping} or"
        " {type: truncation_selection, truncation_percentage: 20}, with evaluation_interval and delay_evaluation; or"
        " any pruner of Optuna by its `_target_`.",
    )
    seed: int | None = key(None, "Decides every draw; by default training.random_seed.", minimum=0)
    portfolio: str | None = key(
        None, "A YAML file of candidates for automode, in place of those that this package and its plugins bring."
    )
    candidates: list[str] | None = key(None, "The names of the candidates that automode may take; by default all.")
    storage: str | None = key(
        None,
        "Where the study lies: journal (a file in output_dir), a path that ends in .journal, sqlite:///FILE (of one"
        " process, without a launcher), postgresql://USER@HOST/NAME or mysql://USER@HOST/NAME. By default SQLite in"
        " output_dir, and a journal there where a launcher starts workers.",
    )
    study_name: str | None = key(
        None, "The study's name in a database that sweeps share; by default the absolute output_dir."
    )


@dataclass
class AroundConfig(SearchConfig):
    """Around the best trials of another sweep, which `runs` names."""

    sampler: Any = key("bayesian", "How values are drawn around them: random, grid, bayesian or sobol.")
    widening: float = key(
        0.1,
        "How far beyond the best trials' values a number may go, to either side: a share of the range that the other"
        " sweep had, in orders of magnitude where it was logarithmic.",
        above=0,
        maximum=1,
    )
