"""AutoMode: candidates of a portfolio, measured, fitted into the budget; what is left is the space of a sweep."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.jobs.plan import PLAN
from lightning_automl_vision.log import LOG, on_console
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.run import SWEEP, write_json
from lightning_automl_vision.search.asking import Asked, asked_for, check_folder, remember_arguments
from lightning_automl_vision.search.candidates import IS_GIVEN
from lightning_automl_vision.search.facts import facts_of, memory_there
from lightning_automl_vision.search.fork_server import ForkServer
from lightning_automl_vision.search.gpus import check_gpus, dealt, fitted, usable_gpus
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.planning import Budget, Decision, Measured, chosen, fits_default, span
from lightning_automl_vision.search.portfolio import EPOCHS, MODEL, OTHER_DEVICE, Candidate, Facts
from lightning_automl_vision.search.slots import DEFAULT, threads_for
from lightning_automl_vision.search.spaces import Spaces
from lightning_automl_vision.search.tickets import another_sweep, locked
from lightning_automl_vision.search.trial_process import Command, TrialProcess
from lightning_automl_vision.tables import table

PLANNING = "planning"
_TENTH = 0.1
_SHORTEST, _LONGEST = 15.0, 300.0  # seconds for one measurement
_FEW = 2  # candidates that are measured whatever the time
_GRACE = 5.0
_POLL = 0.1
_THIRD = 3
_SIZES = ("training.training_crop_size", "model.image_size", "model.min_size")
_USUAL_SIZE, _USUAL_WEIGHTS = 224, 25_000_000
_LONGEST_REASON = 80


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``default`` is what the command does by itself; ``in_its_place`` says why that is not trial 0, if so."""

    facts: Facts
    budget: Budget
    default: Measured | str
    decisions: Sequence[Decision]
    in_its_place: str = ""
    seconds: float = 0.0
    of: str = ""

    @property
    def kept(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.kept]

    def as_dict(self) -> dict[str, Any]:
        default = self.default if isinstance(self.default, str) else self.default.as_dict()
        return {
            "facts": asdict(self.facts),
            "budget": asdict(self.budget),
            "default": default,
            "in_its_place": self.in_its_place,
            "candidates": [decision.as_dict() for decision in self.decisions],
            "seconds": round(self.seconds, 1),
            "of": self.of,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        default = values["default"]
        return cls(
            facts=Facts(**values["facts"]),
            budget=Budget(**values["budget"]),
            default=default if isinstance(default, str) else Measured(**default),
            in_its_place=values["in_its_place"],
            decisions=[Decision.from_dict(each) for each in values["candidates"]],
            seconds=values["seconds"],
            of=values["of"],
        )


def plan_sweep(config: DictConfig, keys: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """``lav plan`` of a sweep: what AutoMode would do, measured and told, and kept for the sweep in its folder."""
    asked = asked_for(config, keys, overrides)
    if not asked.candidates:
        varied = ", ".join(dict.fromkeys(key for space in asked.spaces.spaces for key in space.free)) or "search.spaces"
        raise ConfigError(
            f"lav plan looks at one training, or at AutoMode, and not at a space of your own: {varied}. Give one value"
            " for each key, or limits.max_trials=N with neither spaces nor a sampler."
        )
    check_folder(asked)
    check_gpus(asked)
    settings, folder = asked.settings, Path(asked.settings.output_dir).absolute()
    with on_console(quiet=settings.quiet), locked(folder), ForkServer() as server:
        asked = fitted(asked)
        remember_arguments(asked)
        plan = Planner(asked, folder, server).plan()
        automatic = planned(asked, plan)
    print(told(asked, plan, automatic))
    print(f"{folder / PLAN} has all. The same command without `plan` and with output_dir={folder} begins this sweep.")


def automatic(asked: Asked, folder: Path, server: ForkServer | None) -> Asked:
    """The sweep that AutoMode makes of its candidates, by the plan that the folder holds or by a new one."""
    plan = Planner(asked, folder, server).plan()
    LOG.info("%s", plan_table(asked, plan))
    return planned(asked, plan)


@dataclass
class Planner:
    """Measures each candidate in a process of its own, as many at a time as the sweep has slots."""

    asked: Asked
    folder: Path
    server: ForkServer | None = None
    candidates: Sequence[Candidate] = field(init=False)

    def __post_init__(self) -> None:
        self.candidates = self.asked.candidates

    def plan(self) -> Plan:
        """The one that the folder holds of this very question, or a new one, which is written there."""
        of = _question(self.asked)
        goes_on = (self.folder / SWEEP).exists()
        known = _known(self.folder / PLAN, of, None if goes_on else (self.asked.trials or 1, self.asked.slots))
        if known is not None:
            return known
        if goes_on:
            raise another_sweep(f"output_dir={self.folder}")
        started = time.monotonic()
        facts = facts_of(self.asked)
        missing = {each.name: reason for each in self.candidates if (reason := each.misses(facts))}
        there = [each for each in self.candidates if each.name not in missing]
        LOG.info(
            "Planning: a few steps of %d candidates for %d images, on the %s", len(there), facts.images, facts.device
        )
        limits = self.asked.settings.limits
        seconds = limits.timeout_minutes * 60
        measured: dict[str, Measured | str] = dict(missing)
        until = started + seconds * _TENTH
        there.sort(key=_cost)  # where the time is short, what is cheap is known
        usual = [each for each in there if not each.where_none_is_published]
        measured |= self._measured([(each.name, each.first_values) for each in usual], until)
        rest = [each for each in there if each.where_none_is_published]
        if any(isinstance(measured[each.name], Measured) and self._is_published(each) for each in usual):
            measured |= {each.name: "published weights can be had" for each in rest}
        else:
            measured |= self._measured([(each.name, each.first_values) for each in rest], until)
        default: Measured | str = self.asked.fault
        if not default:
            default = dict(self._measured([(DEFAULT, {})], until))[DEFAULT]
        used = time.monotonic() - started
        budget = Budget(
            seconds=max(seconds - used, 1.0),
            trials=self.asked.trials or 1,
            slots=self.asked.slots,
            memory=memory_there(),
        )
        plan = Plan(
            facts=facts,
            budget=budget,
            default=default,
            decisions=[
                *chosen(self.candidates, measured, budget, self.asked.given),
                *(Decision(name=name, dropped=reason) for name, reason in self.asked.excluded.items()),
            ],
            in_its_place=fits_default(default, self.asked.settings.training.number_of_epochs, budget) or "",
            seconds=used,
            of=of,
        )
        write_json(self.folder / PLAN, plan.as_dict())
        return plan

    def _is_published(self, candidate: Candidate) -> bool:
        return bool(candidate.space.fixed.get("model.pretrained"))

    def _measured(
        self, wanted: Sequence[tuple[str, Mapping[str, Any]]], until: float
    ) -> Iterator[tuple[str, Measured | str]]:
        """In the order in which they end; those that planning has no time for are told so."""
        waiting, running, known = [*wanted], dict[str, TrialProcess](), 0
        asked = self.asked
        shown = dealt(usable_gpus(asked.settings.trainer.accelerator), asked.devices)
        free = [shown[slot % len(shown)] for slot in range(asked.slots)]
        held = dict[str, str | None]()
        try:
            while waiting or running:
                while waiting and len(running) < self.asked.slots:
                    name, values = waiting.pop(0)
                    if known >= _FEW and time.monotonic() > until:
                        yield name, "planning had used its tenth of the time"
                        continue
                    held[name] = free.pop(0)
                    running[name] = self._start(name, values, held[name])
                for name, process in [*running.items()]:
                    if process.seconds > self._longest:
                        process.time_out(self._longest, _GRACE)
                    if process.poll() is not None:
                        del running[name]
                        free.append(held[name])
                        outcome = self._outcome(name, process)
                        known += isinstance(outcome, Measured)
                        yield name, outcome
                time.sleep(_POLL)
        finally:
            for process in running.values():
                process.kill(_GRACE)

    @property
    def _longest(self) -> float:
        """The seconds of a measurement: what takes a third of a trial's share before it is known would not fit it."""
        limits = self.asked.settings.limits
        share = limits.timeout_minutes * 60 * self.asked.slots / (self.asked.trials or 1)
        return round(min(max(share / _THIRD, _SHORTEST), _LONGEST))

    def _start(self, name: str, values: Mapping[str, Any], devices: str | None) -> TrialProcess:
        task = self.asked.settings.task
        folder = self.folder / PLANNING / name
        (folder / PLAN).unlink(missing_ok=True)
        command = Command(
            arguments=("job=plan", *self.asked.arguments, *as_overrides(values)),
            folder=folder,
            metric=task.judged_by,
            lower_is_better=task.lower_is_better,
            threads=threads_for(self.asked.slots),
            devices=devices,
        )
        return TrialProcess.start(command, self.server)

    def _outcome(self, name: str, process: TrialProcess) -> Measured | str:
        try:
            content = json.loads((self.folder / PLANNING / name / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            outcome = process.poll()
            late = outcome is not None and outcome.kind == "timeout"
            reason = f"a few steps took longer than {self._longest:g} s" if late else outcome.reason if outcome else ""
            LOG.info("  %s: %s", name, reason)
            return reason or "it could not be measured"
        measured = Measured(**content["measured"])
        LOG.info("  %s: %.1f s an epoch, %.1f GB", name, measured.epoch, measured.memory / (1 << 30))
        return measured


def _cost(candidate: Candidate) -> float:
    """About what a picture costs, for comparison alone: weights times pixels."""
    values = candidate.first_values
    side = next((values[key] for key in _SIZES if key in values), _USUAL_SIZE)
    return (model_spec(str(values[MODEL])).parameters or _USUAL_WEIGHTS) * float(side) ** 2


def planned(asked: Asked, plan: Plan) -> Asked:
    """The sweep that a plan makes of AutoMode: its space, its first trials, its policy."""
    decisions = {decision.name: decision for decision in plan.kept}
    if not decisions:
        reasons = "; ".join(f"{each.name}: {each.dropped.rstrip('.')}" for each in plan.decisions)
        raise ConfigError(f"AutoMode has nothing to try. {reasons}.")
    kept = [each for each in asked.candidates if each.name in decisions]
    kept = [each if EPOCHS in asked.given else each.trained_for(decisions[each.name].epochs) for each in kept]
    kept.sort(key=lambda each: decisions[each.name].epochs[0] < each.epochs.usual / 2)  # the starved are no best bets
    if plan.in_its_place:  # the cheapest comes first: it is what the others have to beat
        cheapest = min(kept, key=lambda each: _usual_seconds(decisions[each.name], each))
        kept = [cheapest, *(each for each in kept if each is not cheapest)]
    spaces = Spaces(tuple(each.space for each in kept))
    delay = max(min(decisions[each.name].epochs[0] for each in kept) // _THIRD, 1)
    policy = asked.policy or {"type": "median_stopping", "evaluation_interval": 1, "delay_evaluation": delay}
    return replace(
        asked,
        sampler="bayesian",
        spaces=spaces,
        policy=policy,
        first=tuple(spaces.fixed_parameters(each.name, each.first_values) for each in kept),
        draws_default=bool(plan.in_its_place),
        stands_in=plan.in_its_place and f"the command by itself is left out, as {plan.in_its_place.rstrip('.')}",
        measured={
            name: measured
            for name, measured in ((DEFAULT, plan.default), *((each.name, each.measured) for each in plan.decisions))
            if isinstance(measured, Measured)
        },
        startup=len(kept) + 1,
        used_seconds=plan.seconds,
    )


def _usual_seconds(decision: Decision, candidate: Candidate) -> float:
    """What it takes when there is time: within their shares all take as long as they may."""
    return 0.0 if decision.measured is None else decision.measured.of(candidate.epochs.usual)


def told(asked: Asked, plan: Plan, automatic: Asked) -> str:
    """The plan in words and figures."""
    budget, facts = plan.budget, plan.facts
    objects = "" if facts.object_size is None else f", with objects of {facts.object_size:.3f} of a picture's side"
    first = "what the command does by itself"
    if plan.in_its_place:
        first = f"{automatic.spaces.spaces[0].name}, the cheapest, for the command by itself is left out"
    return "\n".join(
        (
            plan_table(asked, plan),
            "",
            f"{facts.images} images to train on{objects}, on the {facts.device}; {budget.trials} trials,"
            f" {budget.slots} at a time, {span(budget.seconds)} in all, {span(budget.share)} for each.",
            f"Trial 0 is {first}. Early termination: {' '.join(map(str, automatic.policy.values()))}.",
            *_too_little(plan),
        )
    )


def _too_little(plan: Plan) -> list[str]:
    """What can be done where the quickest trial takes more than its share."""
    budget, quickest = plan.budget, min((each.seconds or 0.0 for each in plan.kept), default=0.0)
    if quickest <= budget.share:
        return []
    fit, enough = int(budget.seconds * budget.slots / quickest), quickest * budget.trials / budget.slots + plan.seconds
    return [
        f"The time is too short: {fit} of {budget.trials} trials fit. limits.timeout_minutes={math.ceil(enough / 60)}"
        " would be enough."
    ]


def plan_table(asked: Asked, plan: Plan) -> str:
    """Every candidate for this device: what it takes, and whether it is tried."""
    epochs = asked.settings.training.number_of_epochs
    rows = [
        _line("the command by itself", plan.default, (epochs,), plan.in_its_place),
        *(
            _line(each.name, each.measured or each.dropped, each.epochs, each.dropped)
            for each in plan.decisions
            if not each.dropped.startswith(OTHER_DEVICE) and not each.dropped.endswith(IS_GIVEN)
        ),
    ]
    return table(("candidate", "s/epoch", "GB", "epochs", "in all", ""), rows)


def _line(name: str, measured: Measured | str, epochs: Sequence[int], dropped: str) -> tuple[str, ...]:
    dropped = dropped or (measured if isinstance(measured, str) else "")
    why = f"left out: {dropped.partition('. ')[0]}" if dropped else ""
    why = why if len(why) <= _LONGEST_REASON else f"{why[: _LONGEST_REASON - 1]}…"
    if isinstance(measured, str):
        return name, "", "", "", "", why
    gigabytes = f"{measured.memory / (1 << 30):.1f}"
    return (
        name,
        f"{measured.epoch:.1f}",
        gigabytes,
        " or ".join(map(str, epochs)),
        span(measured.of(epochs[0])) if epochs else "",
        why,
    )


def _question(asked: Asked) -> str:
    """What a plan answers: a command over some candidates."""
    content = [
        [*asked.arguments],
        Spaces(tuple(each.space for each in asked.candidates)).fingerprint(),
        [asdict(each.epochs) for each in asked.candidates],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _known(file: Path, of: str, budget: tuple[int, int] | None) -> Plan | None:
    """The plan that answers the question, for so many trials, so many at a time, where that matters any more."""
    try:
        plan = Plan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if plan.of == of and budget in (None, (plan.budget.trials, plan.budget.slots)) else None
