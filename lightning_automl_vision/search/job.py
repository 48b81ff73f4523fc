"""A sweep from the command line, from what was asked for to its winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.log import LOG, in_file, on_console
from lightning_automl_vision.run import write
from lightning_automl_vision.search.asking import ARGUMENTS, asked_for

_MINUTE = 60.0


def run_sweep(config: DictConfig, keys: Mapping[str, Any], arguments: Sequence[str]) -> float | None:
    """The primary metric of the winner; ``keys`` are those of ``hydra.sweeper``."""
    from lightning_automl_vision.search.fork_server import ForkServer
    from lightning_automl_vision.search.leaderboard import Leaderboard
    from lightning_automl_vision.search.policies import policy_of
    from lightning_automl_vision.search.samplers import sampler_of
    from lightning_automl_vision.search.sweep import Limits, Sweep, threads_for
    from lightning_automl_vision.search.tickets import Direction, Tickets, locked, open_study

    asked = asked_for(config, keys, arguments)
    settings, task = asked.settings, asked.settings.task
    folder = Path(settings.output_dir).absolute()
    direction: Direction = "minimize" if task.lower_is_better else "maximize"
    limits, points = settings.limits, asked.points
    slots = min(limits.max_concurrent_trials, len(points))
    with on_console(quiet=settings.quiet), locked(folder), in_file(folder / "run.log"):
        study = open_study(
            folder,
            direction=direction,
            sampler=sampler_of(asked.sampler, asked.seed),
            pruner=policy_of(asked.policy, direction),
            fingerprint=asked.spaces.fingerprint(),
        )
        write(folder / ARGUMENTS, "".join(f"{text}\n" for text in asked.arguments))
        tickets = Tickets(study)
        tickets.issue(points)
        board = Leaderboard(
            folder=folder,
            tickets=tickets,
            metric=task.judged_by,
            lower_is_better=task.lower_is_better,
            arguments=asked.arguments,
        )
        LOG.info("%d trials, %d at a time, in %s", len(points), slots, folder)
        with ForkServer() as server:
            if tickets.left:
                server.warm_up()
            Sweep(
                tickets=tickets,
                spaces=asked.spaces,
                arguments=asked.arguments,
                folder=folder,
                metric=task.judged_by,
                lower_is_better=task.lower_is_better,
                limits=Limits(
                    slots=slots,
                    seconds=limits.timeout_minutes * _MINUTE,
                    trial_seconds=(limits.trial_timeout_minutes or limits.timeout_minutes) * _MINUTE,
                    most_failures=float(keys.get("max_failure_rate", 1.0)),
                    threads=threads_for(slots),
                ),
                with_default=not asked.is_grid,
                draws_default=asked.draws_default,
                server=server,
                changed=board.write,
            ).run()
        winner = board.finish()
    if not settings.quiet:
        print(board.text())
    if winner is None:
        raise TrainingError(f"No trial was finished in {folder}. {board.first_failure}")
    return winner.value
