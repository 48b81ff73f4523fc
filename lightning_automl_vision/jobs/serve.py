"""``lav serve``: trained models as a service over HTTP, until it is asked to end."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import JobConfig

KEY_VARIABLE = "LAV_SERVE_KEY"
"""The environment variable that holds the key, where no file does."""

_USED = ("job", "checkpoint", "runs", "quiet", "hydra", "trainer.accelerator")
_ONLY = "default"  # what the one model of `checkpoint` is called
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")


@dataclass
class ServeConfig:
    """Where the server listens, who may ask, and how much at a time."""

    host: str = key("127.0.0.1", "The address to listen at; 0.0.0.0 is every address of this machine.")
    port: int = key(8000, "The port to listen at; 0 takes a free one and says which.", minimum=0, maximum=65535)
    auth_mode: str = key(
        "none",
        f"`key` answers only those who send the key of serve.key_file, or else of the environment's {KEY_VARIABLE}.",
        choices=("none", "key"),
    )
    key_file: str | None = key(None, "A file with the key; several, one a line, are all good, so that one can follow.")
    deployments: Any = key(
        None, "Several models by a name of your choice, in place of `checkpoint`: '{blue: RUN1, green: RUN2}'."
    )
    traffic: Any = key(
        None, "The percentage of requests each of them takes, 0 where none is given: '{blue: 90, green: 10}'."
    )
    batch_size: int | None = key(
        None, "Pictures the model sees at once; by default 16 of a classifier's, else 1.", minimum=1, maximum=1024
    )
    batch_wait_ms: int = key(5, "How long a batch waits for pictures that are on their way.", minimum=0, maximum=1000)
    concurrency: int = key(16, "Requests that are worked on at the same time.", minimum=1, maximum=1024)
    queue_size: int = key(64, "Requests that wait beside them; further ones get 429.", minimum=0, maximum=10_000)
    request_timeout_ms: int = key(30_000, "How long a request may take; then it gets 504.", minimum=1, maximum=90_000)
    drain_wait_ms: int = key(
        0,
        "How long SIGTERM leaves things as they are but for /health/ready, for a load balancer to take notice.",
        minimum=0,
        maximum=600_000,
    )
    body_megabytes: float = key(32.0, "The largest body of a request; a larger one gets 413.", above=0, maximum=1024)
    maximum_images: int = key(64, "The most pictures of a request.", minimum=1, maximum=1000)
    maximum_image_pixels: int = key(
        50_000_000, "Pictures of more pixels than this are a fault: they may be decompression bombs.", minimum=1
    )
    threads: int | None = key(
        None, "Threads of each model's network; by default OMP_NUM_THREADS, or else the cores divided.", minimum=1
    )
    decoding_threads: int | None = key(
        None, "Threads that decode pictures and write answers; by default one a core.", minimum=1, maximum=256
    )


@dataclass
class Config(JobConfig):
    """Serve a trained model over HTTP, a run's folder given as ``checkpoint``, or several by name."""

    serve: ServeConfig = field(default_factory=ServeConfig)


def run(settings: Settings) -> None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not serve.")
    serve(settings, settings.job.serve)


def serve(settings: Settings, config: ServeConfig) -> None:
    """Check everything that can be checked without a network, then answer until a signal comes."""
    from lightning_automl_vision.model_folder import read_card

    _check(settings)
    folders = deployments_of(settings, config)
    traffic = traffic_of(config, folders)
    for folder in folders.values():
        read_card(folder)
    _check_installed()
    threads = config.threads or _threads(len(folders))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # runtimes that are not torch ask for it when they are loaded
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what strangers send is no news

    from lightning_automl_vision.serving.server import run_server

    run_server(folders, traffic, config, threads=threads, accelerator=settings.trainer.accelerator)


def deployments_of(settings: Settings, config: ServeConfig) -> Mapping[str, str]:
    """Each model's folder by the name of its deployment."""
    if settings.runs:
        raise ConfigError(
            f"lav serve tells several models apart by name: serve.deployments='{{blue: RUN1, green: RUN2}}', not"
            f" {settings.runs}."
        )
    if config.deployments is None:
        if settings.checkpoint is None:
            raise ConfigError("checkpoint is not given. Name a run's folder: checkpoint=PATH.")
        return {_ONLY: settings.checkpoint}
    if settings.checkpoint is not None:
        raise ConfigError(
            f"checkpoint={settings.checkpoint}: serve.deployments names the models. Leave one of them out."
        )
    if not isinstance(config.deployments, dict) or not config.deployments:
        raise ConfigError(f"serve.deployments={config.deployments}: write '{{blue: RUN1, green: RUN2}}'.")
    for name, folder in config.deployments.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"serve.deployments: {name!r} is no name for a deployment. It has a letter first, then letters, digits"
                " and hyphens, 32 in all."
            )
        if not isinstance(folder, str):
            raise ConfigError(f"serve.deployments: {name} is {folder!r}. Name a run's folder.")
    return config.deployments


def traffic_of(config: ServeConfig, folders: Mapping[str, str]) -> Mapping[str, float]:
    """The percentage of each deployment: what is given, else 0, but all of it where there is one by itself."""
    if config.deployments is None:
        if config.traffic is not None:
            raise ConfigError("serve.traffic: there is one model, which takes all of it. Leave it out.")
        return dict.fromkeys(folders, 100.0)
    traffic = {} if config.traffic is None else config.traffic
    fault = traffic_fault(traffic, folders)
    if fault:
        raise ConfigError(f"serve.traffic={config.traffic}: {fault}.")
    return {name: float(traffic.get(name, 0)) for name in folders}


def traffic_fault(traffic: Any, known: Mapping[str, object]) -> str | None:
    """Why requests cannot be divided so, or None."""
    if not isinstance(traffic, dict):
        return f"percentages by name are expected, such as {next(iter(known))}: 100"
    for name, percentage in traffic.items():
        if name not in known:
            return f"there is no deployment {ascii(name)[:40]}, only {', '.join(known)}"
        if type(percentage) not in (int, float) or not 0 <= percentage <= 100:
            return f"{name} must be in [0, 100], the percentage of requests that it takes"
    total = sum(traffic.values())
    return f"that is {total:g} % in all, and 100 is everything" if total > 100 + 1e-9 else None


def _check(settings: Settings) -> None:
    """Refuse what would not be obeyed."""
    for name, value in given(settings.overrides):
        if name not in _USED and name.partition(".")[0] not in _USED:
            raise ConfigError(
                f"{name}={value}: lav serve has no use for it, the model brings all it needs. Leave it out;"
                " `lav serve --help` lists its keys, and settings.json what may be changed after training."
            )


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"lav serve: {error.name} is not installed. Install it: pip install 'lightning-automl-vision[serve]'."
        ) from None


def _threads(models: int) -> int:
    from lightning_automl_vision.process import usable_cores

    given_threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(given_threads) if given_threads.isdigit() and int(given_threads) else max(usable_cores() // models, 1)
