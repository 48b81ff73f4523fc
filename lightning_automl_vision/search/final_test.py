"""``data.test`` of a sweep: no trial is told of it, and it is scored once, in the end, for the winner alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, Interrupted
from lightning_automl_vision.jobs.evaluate import OF_TRAINING
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_card import write_card
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.result import RESULT
from lightning_automl_vision.run import write, write_json
from lightning_automl_vision.search.outcomes import read_result
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.trial_process import without_cluster
from lightning_automl_vision.search.watching import PIPE
from lightning_automl_vision.settings import DataConfig

BEST, TEST = "best", "test"
_ASKED = "asked.json"
_SAID = "console.log"


def check_test(settings: Settings) -> None:
    """Before the first trial, for it is read only after the last one."""
    path = settings.data.test
    if path and "://" not in path and not os.path.exists(path):
        raise ConfigError(f"data.test={path}: there is no such file or folder. Correct it, or leave data.test out.")


def score_test(
    sweep: Path, settings: Settings, trial: str, *, module: str = "lightning_automl_vision"
) -> dict[str, Any] | None:
    """The model in ``best`` on ``data.test``, which ``best/test.json`` tells in full; None where there is no test set.

    What was scored is kept in the folder of the ``trial`` that won, and not scored again while that one wins.
    """
    if not settings.data.test:
        return None
    asked, folder = arguments_of(settings), sweep / trial / TEST
    before = _asked_before(folder)
    if before != asked:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        LOG.info("%s is scored on data.test=%s, once", trial, settings.data.test)
        if before is not None and before[0] != asked[0]:
            LOG.warning(
                "It was scored on another data.test before: of several figures the one that pleases most is not"
                " a fair one, so name all of them with it."
            )
        places = as_overrides({"checkpoint": str(sweep / BEST), "job.output": str(folder)})
        words = ["job=evaluate", *places, *asked, "quiet=true"]
        code = _run([sys.executable, "-m", module, *words], folder / _SAID)
        if not (folder / RESULT).exists():
            return _failed(code, folder)
        write(folder / _ASKED, json.dumps(asked))
    result = read_result(folder) or {}
    write_json(sweep / BEST / f"{TEST}.json", {"trial": trial, **result})
    write_card(sweep / BEST)
    primary = result["primary_metric"]
    return {
        primary["name"]: primary["value"],
        "interval": primary["interval"],
        "images": result["data"]["images"],
        "trial": trial,
    }


def arguments_of(settings: Settings) -> list[str]:
    """What is said of the test set, and how it is to be read."""
    usual = DataConfig()
    names = [field.name for field in fields(DataConfig) if field.name not in OF_TRAINING]
    reading = {name: value for name in names if (value := getattr(settings.data, name)) != getattr(usual, name)}
    return as_overrides(
        {
            "job.input": settings.data.test,
            "job.part": TEST,
            **{f"data.{name}": value for name, value in reading.items()},
            "trainer.accelerator": settings.trainer.accelerator,
            "training.number_of_workers": settings.training.number_of_workers,
        }
    )


def words_of(test: Mapping[str, Any]) -> str:
    """The line beneath a leaderboard."""
    if "error" in test:
        return f"data.test could not be scored: {test['error']}"
    name = next(iter(test))
    value, interval = test[name], test["interval"]
    known = interval is not None and None not in interval
    between = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if known else ""
    figure = "undefined" if value is None else f"{value:.4f}"
    return f"On the {test['images']} images of data.test, which selected nothing, {name} is {figure}{between}."


def _asked_before(folder: Path) -> list[str] | None:
    """With what it was scored before, if its result is there."""
    try:
        before: list[str] = json.loads((folder / _ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return before if read_result(folder) is not None else None


def _run(command: Sequence[str], said: Path) -> int:
    """To its end, in a process group of its own that ends with this process, however that goes."""
    theirs, ours = os.pipe()
    variables = {"OMP_NUM_THREADS": str(usable_cores()), **without_cluster(os.environ), PIPE: str(theirs)}
    try:
        with said.open("wb") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=variables,
                pass_fds=[theirs],
                start_new_session=True,
            )
        os.close(theirs)
        theirs = -1
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _failed(code: int, folder: Path) -> dict[str, Any]:
    """A sweep is not lost for it: its winner stands, and the same command tries again."""
    if code == Interrupted.exit_code:
        raise Interrupted("Interrupted before data.test was scored. Repeat the command to do so.")
    lines = (folder / _SAID).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    error = lines[-1].removeprefix("Error: ") if lines else f"exit code {code}"
    LOG.warning("data.test could not be scored, and the same command tries again: %s", error)
    return {"error": error}
