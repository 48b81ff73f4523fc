"""The policies as pruners of an Optuna study; what must start fast does not import this, which imports Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.policies import TARGET, Curve, Decision, Other, Policy

# A failed trial is none to compare with, a waiting one has not begun.
COMPARED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


class PolicyPruner(BasePruner):
    """Asks a policy; to be asked after every single report, as a policy looks at every so many of them.

    ``reasons`` are those of the trials that it told to stop, by their number.
    """

    def __init__(self, policy: Policy, *, minimize: bool = False) -> None:
        self.policy = policy
        self.minimize = minimize
        self.reasons: dict[int, str] = {}

    def decision(self, study: Study, trial: FrozenTrial) -> Decision:
        """Of the trial's last report; others are not even looked at where the policy leaves the trial alone."""
        if not self.policy.acts_after(len(trial.intermediate_values)):
            return Decision()
        others = [
            Other(_curve(other), finished=other.state.is_finished())
            for other in study.get_trials(deepcopy=False, states=COMPARED)
            if other.number != trial.number
        ]
        return self.policy.decision(_curve(trial), others, minimize=self.minimize)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        decision = self.decision(study, trial)
        if decision.stop:
            self.reasons[trial.number] = decision.reason
        return decision.stop


def reason_of(pruner: BasePruner, number: int) -> str:
    """Why a pruner told a trial to stop; Optuna's own do not say."""
    told = pruner.reasons.get(number) if isinstance(pruner, PolicyPruner) else None
    return told or f"stopped by {type(pruner).__name__}"


def no_pruner() -> BasePruner:
    return NopPruner()


def pruner_at(node: Mapping[str, Any], key: str) -> BasePruner:
    """What ``_target_`` names, made from the values beside it; nothing but a pruner is ever called."""
    arguments = {
        name: pruner_at(value, f"{key}.{name}") if isinstance(value, Mapping) and TARGET in value else value
        for name, value in node.items()
        if name != TARGET
    }
    path = node[TARGET]
    try:
        kind = resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}.{TARGET}={path} cannot be imported: {error}.") from None
    if not (isinstance(kind, type) and issubclass(kind, BasePruner)):
        raise ConfigError(f"{key}.{TARGET}={path} is no subclass of optuna.pruners.BasePruner.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind(**arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{key}={arguments}: {path} cannot be made: {reason}.") from None


def _curve(trial: FrozenTrial) -> Curve:
    return [value for _, value in sorted(trial.intermediate_values.items())]
