"""Early termination: which of the trials that run are not worth going on with, and why, in words.

An evaluation is one report of the primary metric, so that what is asked of a trial after its n-th one is compared with
what others had after their n-th, however old they are by now. A policy sees only what was reported until then: what
comes first is compared with little, and nothing is ever compared with itself alone to its harm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import Key, check_ranges, key, nearest

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Curve = Sequence[float]
"""What a trial reported, in the order of its evaluations."""
KEY = "search.early_termination"
TARGET = "_target_"
DIRECTIONS = ("maximize", "minimize")
_WORST = -math.inf


class Decision(NamedTuple):
    """Whether a trial is to end, and why; no reason where it goes on."""

    stop: bool = False
    reason: str = ""


GO_ON = Decision()


class Other(NamedTuple):
    """Another trial, and whether it is over; one that failed is none to compare with."""

    curve: Curve
    finished: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """A trial beside the others, as its last evaluation finds them: the larger the better, what is no number worst.

    Of the others no more evaluations are looked at than the trial has itself; ``reached`` are those that have as many.
    """

    own: Curve
    others: Sequence[Curve]
    running: Sequence[bool]
    minimize: bool

    @classmethod
    def of(cls, curve: Curve, others: Sequence[Other], *, minimize: bool) -> View:
        seen = [other for other in others if len(other.curve)]
        return cls(
            own=_signed(curve, minimize),
            others=[_signed(other.curve[: len(curve)], minimize) for other in seen],
            running=[not other.finished for other in seen],
            minimize=minimize,
        )

    @property
    def best(self) -> float:
        return max(self.own)

    @property
    def best_of_all(self) -> float:
        return max(self.best, *map(max, self.others), _WORST)

    @property
    def running_averages(self) -> Sequence[float]:
        return [_mean(curve) for curve in (self.own, *self.others)]

    def reached(self, *, only_running: bool) -> Sequence[float]:
        """What the trial, and the others that are as old, reported at this evaluation."""
        age = len(self.own)
        return [
            self.own[-1],
            *(
                curve[-1]
                for curve, running in zip(self.others, self.running, strict=True)
                if len(curve) == age and (running or not only_running)
            ),
        ]

    def shown(self, *values: float) -> Sequence[str]:
        """As they were reported, with as many digits as tell different values apart."""
        real = [-value if self.minimize else value for value in values]
        different = len(set(real))
        for digits in range(3, 9):
            texts = [f"{value:.{digits}f}" if math.isfinite(value) else "nan" for value in real]
            if len(set(texts)) == different:
                break
        return texts

    @property
    def after(self) -> str:
        return f"after {len(self.own)} evaluation{'s' if len(self.own) > 1 else ''}"

    @property
    def beyond(self) -> str:
        return "above" if self.minimize else "below"


def _signed(curve: Curve, minimize: bool) -> Curve:
    sign = -1 if minimize else 1
    return [sign * value if math.isfinite(value) else _WORST for value in curve]


def _mean(curve: Curve) -> float:
    """Never above the best by rounding."""
    return min(math.fsum(curve) / len(curve), max(curve))


def _worse(value: float, bound: float) -> bool:
    """By more than what rounding does: a trial on the bound goes on."""
    return value < bound and not math.isclose(value, bound, rel_tol=1e-9, abs_tol=1e-12)


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """When a trial is looked at; how it is judged is its subclasses' affair."""

    evaluation_interval: int = key(
        1, "The policy looks at a trial after every so many evaluations; 0 counts as 1.", minimum=0
    )
    delay_evaluation: int = key(0, "It leaves a trial alone before so many evaluations.", minimum=0)

    def acts_after(self, evaluations: int) -> bool:
        """At the multiples of the interval from the delay on: 2 and 6 are 6, 8, 10; an interval of 0 is one of 1."""
        return evaluations >= max(1, self.delay_evaluation) and evaluations % max(1, self.evaluation_interval) == 0

    def decision(self, curve: Curve, others: Sequence[Other] = (), *, minimize: bool = False) -> Decision:
        """Whether the trial that has just reported the last value of ``curve`` is to end."""
        if not self.acts_after(len(curve)):
            return GO_ON
        reason = self._fault(View.of(curve, others, minimize=minimize))
        return Decision(stop=True, reason=reason) if reason else GO_ON

    @abstractmethod
    def _fault(self, view: View) -> str | None:
        """Why the trial is to end, if it is."""


@dataclass(frozen=True, kw_only=True)
class Bandit(Policy):
    """Ends a trial whose best is further from the best of all, at the same age, than the slack.

    With a factor f the bound is best / (1 + f), or best x (1 + f) where less is better. Where the sign of the best
    turns that round, so that the best itself would be out, the bound lies |best| x (1 - 1 / (1 + f)) away from it.
    """

    slack_factor: float | None = key(None, "How far behind, as a share: best / (1 + slack_factor).", above=0)
    slack_amount: float | None = key(None, "How far behind, as a difference: best - slack_amount.", above=0)

    def __post_init__(self) -> None:
        if (self.slack_factor is None) == (self.slack_amount is None):
            given = f"slack_factor={self.slack_factor} and slack_amount={self.slack_amount}"
            raise ValueError(f"a bandit has one slack, got {given}. Give one of them, such as slack_factor: 0.2")

    def _fault(self, view: View) -> str | None:
        most = view.best_of_all
        if not math.isfinite(most):
            return None
        bound = most - self._slack(most, view.minimize)
        if not _worse(view.best, bound):
            return None
        own, limit, top = view.shown(view.best, bound, most)
        rule = self._rule(most, view.minimize)
        return f"best {own} {view.after} is {view.beyond} {limit}, the best of all, {top}, {rule}"

    def _slack(self, most: float, minimize: bool) -> float:
        if self.slack_amount is not None:
            return self.slack_amount
        assert self.slack_factor is not None
        if minimize and most < 0:  # what is reported is more than 0
            return -most * self.slack_factor
        return abs(most) * (1 - 1 / (1 + self.slack_factor))

    def _rule(self, most: float, minimize: bool) -> str:
        if self.slack_amount is not None:
            return f"{'+' if minimize else '-'} {self.slack_amount:g}"
        assert self.slack_factor is not None
        if most >= 0:
            return f"/ {1 + self.slack_factor:g}"
        return f"x {1 + self.slack_factor:g}" if minimize else f"- {self._slack(most, minimize):.3g}"


@dataclass(frozen=True, kw_only=True)
class MedianStopping(Policy):
    """Ends a trial whose best is worse than the median of the running averages of all, at the same age.

    All trials that have reported anything count: a younger one, or one that ended earlier, with what it has.
    """

    def _fault(self, view: View) -> str | None:
        averages = view.running_averages
        middle = median(averages)
        if not _worse(view.best, middle):
            return None
        own, bound = view.shown(view.best, middle)
        return f"best {own} {view.after} is {view.beyond} {bound}, the median of {len(averages)} running averages"


@dataclass(frozen=True, kw_only=True)
class TruncationSelection(Policy):
    """Ends the worst at an evaluation, among all trials that have reached it.

    The share is rounded down to whole trials; of several that are equally bad, all are among the worst or none is.
    """

    truncation_percentage: int = field(
        metadata={"key": Key(help="So many percent of the trials end.", minimum=1, maximum=99)}
    )
    exclude_finished_jobs: bool = key(False, "Compare with trials that are still running alone.")

    def _fault(self, view: View) -> str | None:
        values = view.reached(only_running=self.exclude_finished_jobs)
        ending = len(values) * self.truncation_percentage // 100
        if sum(value <= values[0] for value in values) > ending:
            return None
        (own,) = view.shown(values[0])
        side = "highest" if view.minimize else "lowest"
        kind = "running trials" if self.exclude_finished_jobs else "trials"
        return (
            f"{own} at evaluation {len(view.own)} is among the {side} {ending} of {len(values)} {kind}"
            f" ({self.truncation_percentage} %)"
        )


POLICIES: Mapping[str, type[Policy]] = {
    "bandit": Bandit,
    "median_stopping": MedianStopping,
    "truncation_selection": TruncationSelection,
}
_NONE = (None, "none")


def policy_in(node: Any) -> Policy | None:
    """The policy that a mapping, or the mere name of one, asks for; none where it asks for none.

    A slack of 0 beside another one counts as not given, as some write what they leave out.
    """
    values = {"type": node} if node is None or isinstance(node, str) else _plain(node)
    if "type" not in values:
        raise ConfigError(f"{KEY}={values} has no type. It is one of {_names()}, or give {TARGET}: a pruner of Optuna.")
    name = values.pop("type")
    if name in _NONE:
        for idle in values:
            raise ConfigError(f"{KEY}.{idle}: without a policy nobody reads it. Give {KEY}.type: {_names()}.")
        return None
    kind = POLICIES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"{KEY}.type={name}: no such policy.{nearest(str(name), list(POLICIES))} Known: {_names()}.")
    if kind is Bandit and values.get("slack_factor") and values.get("slack_amount") == 0:
        del values["slack_amount"]
    if kind is Bandit and values.get("slack_amount") and values.get("slack_factor") == 0:
        del values["slack_factor"]
    return _made(name, kind, values)


def policy_of(node: Any, direction: str) -> BasePruner:
    """The pruner for a study: of a documented policy, or Optuna's own by its ``_target_``."""
    from lightning_automl_vision.search.pruners import PolicyPruner, no_pruner, pruner_at

    if direction not in DIRECTIONS:
        raise ConfigError(f"direction={direction}: must be {' or '.join(DIRECTIONS)}.")
    if isinstance(node, Mapping) and TARGET in node:
        return pruner_at(_plain(node), KEY)
    policy = policy_in(node)
    return no_pruner() if policy is None else PolicyPruner(policy, minimize=direction == "minimize")


def _plain(node: Any) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{KEY}={node}: must be keys and values, such as {{type: bandit, slack_factor: 0.2}}.")
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{KEY}: {str(error).splitlines()[0]}.") from None
    return {str(name): value for name, value in plain.items()}


def _made(name: str, kind: type[Policy], values: Mapping[str, Any]) -> Policy:
    known = [item.name for item in fields(kind)]
    for given in values:
        if given not in known:
            raise ConfigError(
                f"{KEY}.{given}: {name} has no such key.{nearest(given, known)} It has {', '.join(known)}."
            )
    try:
        policy: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(values)))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{KEY}.{error.full_key} has no value, and {name} needs one.") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{KEY}.{error.full_key}: {str(error).splitlines()[0].rstrip('.')}.") from None
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}.") from None
    check_ranges(policy, KEY)
    assert isinstance(policy, Policy)
    return policy


def _names() -> str:
    return ", ".join([*POLICIES, "none"])
