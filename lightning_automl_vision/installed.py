"""Which versions of packages are installed; each is looked up once, since what says it is long to read."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.process import without_memory


@cache
def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # needed elsewhere: on another system, or for another task
        return None


def require_torch(what: object) -> None:
    """ConfigError where torch, which only some models are asked with, cannot be imported."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        if without_memory(error):
            raise
        raise ConfigError(
            f"{what} needs torch, which cannot be imported ({' '.join(str(error).split())}). Install it, or where it is"
            " installed, export the run with format=onnx or openvino, which are asked without it."
        ) from None
