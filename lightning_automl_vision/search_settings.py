"""The typed nodes of the group ``search``: what is tried, how it is drawn, and which trials end early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_automl_vision.keys import key

SAMPLERS = ("random", "grid", "bayesian", "sobol")


@dataclass
class SearchConfig:
    sampler: Any = key(
        "random",
        "How values are drawn: random, grid (every combination once), bayesian or sobol; or any sampler of Optuna by"
        " its `_target_`.",
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
