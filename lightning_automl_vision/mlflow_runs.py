"""Runs as MLflow keeps them: one for each training, and one for a sweep with those of its trials below it.

A folder remembers its own in mlflow.json, so that what is begun again goes on there, and what lies within it lies below
it. Nothing here is imported by MLflow's logger, which Lightning brings, and MLflow itself only where it is asked for.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError, Interrupted
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import write_json
from lightning_automl_vision.training.continuing import NEVER

if TYPE_CHECKING:
    from lightning_automl_vision.composed import Settings
    from lightning_automl_vision.result import Result

NOTE, STORE, ARTIFACTS = "mlflow.json", "mlflow.db", "mlflow-artifacts"
BEST_CHILD, PARENT, NAME = "automl_best_child_run_id", "mlflow.parentRunId", "mlflow.runName"
_LOGGER = "MLFlowLogger"
_STATES = {"failed": "FAILED", "interrupted": "KILLED"}  # every other one is finished
_KEPT = ("result.json", "evaluation.json", "metrics.jsonl", "predictions.jsonl", "config.yaml", "lock.json")
_KEPT_OF_SWEEPS = ("leaderboard.json", "leaderboard.csv")
_LOUD = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_AT_ONCE = 100  # parameters in a call
_LONGEST = 500  # characters of a parameter


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    tracking_uri: str
    experiment_id: str
    run_id: str

    @classmethod
    def of(cls, folder: Path) -> TrackedRun | None:
        """What the folder remembers, if anything."""
        try:
            return cls(**json.loads((folder / NOTE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def client(self) -> Any:
        return client_of(self.tracking_uri)

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)[:_LONGEST]) for name, value in flat(values)]
        for first in range(0, len(parameters), _AT_ONCE):
            self.client.log_batch(self.run_id, params=parameters[first : first + _AT_ONCE])

    def log_metrics(self, values: Mapping[str, float | None], prefix: str = "") -> None:
        """Figures of the whole run; those that are undefined have no place there."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(f"{prefix}{name}", value, now, 0) for name, value in values.items() if value is not None]
        self.client.log_batch(self.run_id, metrics=metrics)

    def log_files(self, folder: Path, names: tuple[str, ...]) -> None:
        for name in names:
            if (folder / name).is_file():
                self.client.log_artifact(self.run_id, str(folder / name))


def client_of(tracking_uri: str) -> Any:
    from mlflow import MlflowClient

    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri)


@contextmanager
def impatient() -> Iterator[None]:
    """A server that does not answer is given up after seconds, where MLflow by itself would ask it for minutes."""
    before = os.environ.get(_RETRIES)
    os.environ.setdefault(_RETRIES, "2")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RETRIES]


def local_store(folder: Path) -> str:
    return f"sqlite:///{(folder / STORE).absolute()}"


def absolute(tracking_uri: str) -> str:
    """The same from any folder: SQLite takes a path for one that is relative to the current folder."""
    path = tracking_uri.removeprefix("sqlite:///")
    return tracking_uri if path == tracking_uri or path.startswith("/") else f"sqlite:///{Path(path).absolute()}"


def experiment_in(client: Any, tracking_uri: str, name: str) -> str:
    """Its number; what runs keep there lies beside a store that is a file."""
    known = client.get_experiment_by_name(name)
    if known is not None and known.lifecycle_stage == "active":
        return str(known.experiment_id)
    path = tracking_uri.removeprefix("sqlite:///")
    place = {} if path == tracking_uri else {"artifact_location": str(Path(path).parent / ARTIFACTS)}
    return str(client.create_experiment(name, **place))


def asked_for(trackers: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The node of MLflow among those of the ``logger`` group, with its name."""
    nodes = ((name, node) for name, node in trackers.items() if str(node.get("_target_", "")).endswith(_LOGGER))
    return next(nodes, None)


def check_installed(trackers: Mapping[str, Any]) -> None:
    """To be asked before there is a folder."""
    asked = asked_for(trackers)
    if asked is not None and find_spec("mlflow") is None:
        raise ConfigError(
            f"logger={asked[0]}: mlflow is not installed. Install it: pip install 'lightning-automl-vision[mlflow]'."
        )


def tracked(settings: Settings, folder: Path, *, several: bool = False) -> Settings:
    """The same settings, whose logger tells the run of this folder: an earlier attempt's, or one that begins now.

    What is made of ``several`` trainings tells nothing itself before its end.
    """
    asked = asked_for(settings.logger)
    if asked is None:
        return settings
    name, node = asked
    parameters = {key: value for key, value in settings.as_dict().items() if key not in ("output_dir", "logger")}
    run = _reached(name, lambda: begun(node, folder, parameters, goes_on=settings.resume != NEVER))
    node = {**node, "tracking_uri": run.tracking_uri, "run_id": run.run_id}
    return settings if several else replace(settings, logger={**settings.logger, name: node})


def begin_sweep(settings: Settings, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Before its trials, which find it in the folder."""
    asked = asked_for(settings.logger)
    if asked is not None:
        name, node = asked
        _reached(name, lambda: begun(node, folder, parameters, goes_on=True))


def begun(node: Mapping[str, Any], folder: Path, parameters: Mapping[str, Any], *, goes_on: bool) -> TrackedRun:
    """The run that the folder remembers, where it ``goes_on``, or a new one, below that of the folder around it."""
    own = TrackedRun.of(folder) if goes_on else None
    if own is not None:
        own.client.update_run(own.run_id, status="RUNNING")
        return own
    above = TrackedRun.of(folder.parent)
    given = node.get("tracking_uri")
    uri = absolute(given) if given else above.tracking_uri if above is not None else local_store(folder)
    client = client_of(uri)
    experiment = experiment_in(client, uri, node.get("experiment_name") or "lightning_automl_vision")
    tags = {NAME: node.get("run_name") or folder.name, **(node.get("tags") or {})}
    if above is not None and above.tracking_uri == uri:
        tags[PARENT] = above.run_id
    run = client.create_run(experiment, tags=tags)
    own = TrackedRun(tracking_uri=uri, experiment_id=experiment, run_id=run.info.run_id)
    own.log_parameters(parameters)
    write_json(folder / NOTE, asdict(own))
    return own


def publish(settings: Settings, folder: Path, result: Result) -> None:
    """What a training came to; a tracker that cannot be told is no reason to lose it."""
    asked = asked_for(settings.logger)
    with_model = asked is not None and bool(asked[1].get("log_model")) and (folder / "model").is_dir()

    def tell(run: TrackedRun) -> None:
        run.log_metrics(result.metrics, "best/")
        run.log_metrics(result.test_metrics, "test/")
        run.log_files(folder, _KEPT)
        if with_model:
            run.client.log_artifacts(run.run_id, str(folder / "model"), "model")
        run.client.set_tag(run.run_id, "status", result.status)
        run.client.set_terminated(run.run_id, _STATES.get(result.status, "FINISHED"))

    if asked is not None:
        _told(folder, tell)


def publish_sweep(settings: Settings, folder: Path, winner: Path | None, metrics: Mapping[str, float | None]) -> None:
    """Its leaderboard, and which of its trials is the result."""

    def tell(run: TrackedRun) -> None:
        best = None if winner is None else TrackedRun.of(winner)
        if best is not None:
            run.client.set_tag(run.run_id, BEST_CHILD, best.run_id)
        run.log_metrics(metrics, "best/")
        run.log_files(folder, _KEPT_OF_SWEEPS)
        _end(run, "FINISHED" if winner is not None else "FAILED", "FAILED")

    if asked_for(settings.logger) is not None:
        _told(folder, tell)


@contextmanager
def telling_of_an_end(settings: Settings, folder: Path) -> Iterator[None]:
    """A sweep that cannot go on is not said to be running: it is killed where that was asked for, else failed."""
    try:
        yield
    except BaseException as error:
        state = "KILLED" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "FAILED"
        if asked_for(settings.logger) is not None:
            _told(folder, lambda run: _end(run, state, state))
        raise


def _end(run: TrackedRun, state: str, of_trials: str) -> None:
    """``of_trials`` is the state of those that ended without a word."""
    unheard = f"tags.`{PARENT}` = '{run.run_id}' and attributes.status = 'RUNNING'"
    for trial in run.client.search_runs([run.experiment_id], filter_string=unheard):
        run.client.set_terminated(trial.info.run_id, of_trials)
    run.client.set_terminated(run.run_id, state)


def _told(folder: Path, tell: Callable[[TrackedRun], None]) -> None:
    run = TrackedRun.of(folder)
    if run is None:
        return
    try:
        with impatient():
            tell(run)
    except Exception as error:  # whatever a server, a database or a network may raise
        LOG.warning("MLflow could not be told what became of %s: %s", folder, in_short(error))


def _reached(name: str, begin: Callable[[], TrackedRun]) -> TrackedRun:
    try:
        with impatient():
            return begin()
    except Exception as error:  # as above; nothing is lost yet
        raise ConfigError(
            f"logger={name}: MLflow cannot begin a run: {in_short(error)}. Look at logger.{name}.tracking_uri."
        ) from None


def in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys with dots between them."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value and all(str(key).isidentifier() for key in value):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
