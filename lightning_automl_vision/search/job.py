"""A sweep from the command line, from what was asked for to its winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.log import LOG, in_file, on_console
from lightning_automl_vision.mlflow_runs import begin_sweep, check_installed, publish_sweep, telling_of_an_end
from lightning_automl_vision.search.asking import Asked, asked_for, check_folder, remember_arguments
from lightning_automl_vision.search.work import Work

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from lightning_automl_vision.search.fork_server import ForkServer
    from lightning_automl_vision.search.leaderboard import Leaderboard
    from lightning_automl_vision.search.workers import Launch


def run_sweep(
    config: DictConfig, keys: Mapping[str, Any], arguments: Sequence[str], launch: Launch | None = None
) -> float | None:
    """The primary metric of the winner; ``keys`` are those of ``hydra.sweeper``, ``launch`` starts workers."""
    from lightning_automl_vision.search.final_test import BEST, check_test, words_of
    from lightning_automl_vision.search.fork_server import ForkServer
    from lightning_automl_vision.search.gpus import check_gpus, fitted
    from lightning_automl_vision.search.storages import place_of
    from lightning_automl_vision.search.tickets import locked

    if launch is None:
        _check_launcher()
    asked = asked_for(config, keys, arguments)
    check_test(asked.settings)
    check_installed(asked.settings.logger)
    check_folder(asked)
    folder, quiet = Path(asked.settings.output_dir).absolute(), asked.settings.quiet
    if not asked.candidates:
        _check_search(asked)
    place = place_of(asked.storage, asked.study_name, folder, several=launch is not None)
    place.check()
    if launch is None:
        check_gpus(asked)
    with on_console(quiet=quiet), locked(folder), in_file(folder / "run.log"):
        asked = fitted(asked) if launch is None else asked
        with ForkServer() if launch is None else nullcontext() as server:
            if asked.candidates:
                from lightning_automl_vision.search.automode import automatic

                asked = automatic(asked, folder, server)
            work = Work(
                asked=asked,
                place=place,
                most_failures=float(keys.get("max_failure_rate", 1.0)),
                lease_seconds=float(keys.get("lease_seconds", 60.0)),
            )
            board = _board(work, aloud=bool(config.get("runs")))
            with telling_of_an_end(asked.settings, folder):
                _drive(work, board, server, launch)
        with telling_of_an_end(asked.settings, folder):
            winner = _ended(work, board)
    if not quiet:
        print(board.text())
    if winner is None:
        raise TrainingError(f"No trial was finished in {folder}. {board.first_failure}")
    if board.test is not None and "error" in board.test:
        raise TrainingError(f"{words_of(board.test)} The winner is in {folder / BEST}; the same command tries again.")
    return winner.value


def _check_search(asked: Asked) -> None:
    """Refuses what Optuna would refuse, before there is a folder."""
    from lightning_automl_vision.search.policies import policy_of
    from lightning_automl_vision.search.samplers import sampler_of

    sampler_of(asked.sampler, asked.seed)
    len(asked.points)  # a grid counts them
    policy_of(asked.policy, "maximize")


def _board(work: Work, *, aloud: bool) -> Leaderboard:
    """The study with all tickets, the files that say what is tried, and who shows what becomes of it."""
    from lightning_automl_vision.search.leaderboard import Leaderboard
    from lightning_automl_vision.search.slots import USED
    from lightning_automl_vision.search.space_file import write_space
    from lightning_automl_vision.search.storages import remember
    from lightning_automl_vision.search.tickets import Tickets, open_study

    asked, folder, task = work.asked, work.folder, work.asked.settings.task
    study = open_study(
        folder,
        direction=work.direction,
        sampler=work.sampler(),
        pruner=work.pruner(),
        fingerprint=asked.spaces.fingerprint(),
        place=work.place,
    )
    if USED not in study.user_attrs:
        study.set_user_attr(USED, asked.used_seconds)
    remember(work.place, folder)
    remember_arguments(asked)
    write_space(folder, asked, aloud=aloud)
    begin_sweep(asked.settings, folder, _parameters(asked))
    tickets = Tickets(study)
    tickets.issue(asked.points)
    return Leaderboard(
        folder=folder,
        tickets=tickets,
        metric=task.judged_by,
        lower_is_better=task.lower_is_better,
        arguments=asked.arguments,
        stands_in=asked.stands_in,
    )


def _drive(work: Work, board: Leaderboard, server: ForkServer | None, launch: Launch | None) -> None:
    """Trials in slots of this process, or in those of workers, until none is left or a limit is reached."""
    from lightning_automl_vision.search.gpus import dealt
    from lightning_automl_vision.search.leases import Leases
    from lightning_automl_vision.search.live_table import live_table
    from lightning_automl_vision.search.slots import threads_for
    from lightning_automl_vision.search.workers import Crew, next_launch

    slots, tickets = work.asked.slots, board.tickets
    LOG.info("%d trials, %d at a time, in %s", len(work.asked.points), slots, work.folder)
    with live_table(board.lines, quiet=work.asked.settings.quiet) as board.drawn:
        if server is not None and tickets.left:
            server.warm_up()
        sweep = work.sweep(
            tickets,
            slots=slots,
            threads=threads_for(slots),
            devices=dealt(work.gpus, work.asked.devices),
            server=server,
            changed=board.write,
            leases=Leases(owner="sweep", seconds=work.lease_seconds) if work.place.is_shared else None,
            launch=next_launch(tickets.study),
        )
        if launch is None:
            sweep.run()
        else:
            Crew(work=work, sweep=sweep, launch=launch, most=slots).run()
        sweep.tell_what_is_left()
    if (left_out := len(work.asked.points) - len(tickets.last_of_each())) > 0:
        LOG.warning(
            "All that can be drawn has been tried: %d of %d trials are left out.", left_out, len(work.asked.points)
        )


def _ended(work: Work, board: Leaderboard) -> FrozenTrial | None:
    """The winner, scored on the test set, which none but it ever sees."""
    from lightning_automl_vision.search.final_test import score_test
    from lightning_automl_vision.search.slots import FOLDER

    winner, settings = board.finish(), work.asked.settings
    if winner is not None and settings.data.test:
        board.test = score_test(work.folder, settings, winner.user_attrs[FOLDER])
        board.write()
    trial = None if winner is None else work.folder / winner.user_attrs[FOLDER]
    figures = {} if winner is None else {settings.task.judged_by: winner.value}
    publish_sweep(settings, work.folder, trial, figures)
    return winner


def _parameters(asked: Asked) -> dict[str, Any]:
    """What a tracker is told of a sweep before it begins."""
    return {
        "task": asked.settings.task.name,
        "primary_metric": asked.settings.task.judged_by,
        "trials": len(asked.points),
        "sampler": asked.sampler,
        "policy": asked.policy,
        "seed": asked.seed,
        "arguments": " ".join(asked.arguments),
    }


def _check_launcher() -> None:
    """A sweep that was begun within a single run has no launcher, whatever the configuration names."""
    target = (HydraConfig.get().launcher or {}).get("_target_", "") if HydraConfig.initialized() else ""
    if target and not target.endswith(".BasicLauncher"):
        raise ConfigError(
            f"hydra.launcher is {target.rpartition('.')[2]}, which only -m begins. Add -m to the command."
        )
