"""The formats that a model can be exported to. Each is a module here; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lightning_automl_vision.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_automl_vision.export.runtime import Run
    from lightning_automl_vision.predictor import OpenedModel
    from lightning_automl_vision.samples import Pixels

# With the files that a network is written to.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "torchscript": ("model.torchscript",),
    "torch_export": ("model.pt2",),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What of an export may be chosen; ``nms`` is None where the model decides, or has none.

    ``calibration`` are prepared pictures of the kind that the network will be asked about, for ``quantise``, from the
    images that ``calibrated_on`` names.
    """

    normalise: str = "inside"
    precision: int = 32
    quantise: str | None = None
    nms: str | None = None
    calibration: Sequence[Pixels] = ()
    calibrated_on: tuple[str, ...] = ()

    @property
    def normalising(self) -> bool:
        return self.normalise == "inside"

    @property
    def exact(self) -> bool:
        """Whether the network keeps its digits."""
        return self.precision == 32 and self.quantise is None

    @property
    def choices(self) -> dict[str, str]:
        """What models read, if they have such a choice."""
        return {} if self.nms is None else {"nms": self.nms}


class Format(Protocol):
    """A module ``lightning_automl_vision/export/NAME.py``.

    ``READS`` are the options, by their names in ``Options``, that mean something to it. ``TO_WRITE`` and ``TO_ASK`` are
    the packages that it imports, ``EXTRA`` the extra of this one that brings them. ``write`` puts its files into a
    folder and gives what model.json is to hold of them; ``opened`` is given that again, and the folder.
    """

    READS: frozenset[str]
    TO_WRITE: tuple[str, ...]
    TO_ASK: tuple[str, ...]
    EXTRA: str | None

    def write(self, opened: OpenedModel, folder: Path, options: Options) -> Mapping[str, Any]: ...

    def opened(self, folder: Path, facts: Mapping[str, Any]) -> Run: ...


def format_named(name: str) -> Format:
    return cast(Format, import_module(f"lightning_automl_vision.export.{name}"))


def check_packages(name: str, *, writing: bool) -> None:
    """ConfigError where what the format needs is not installed."""
    module = format_named(name)
    check_installed(name, module.TO_WRITE if writing else module.TO_ASK, module.EXTRA)


def check_installed(name: str, packages: Sequence[str], extra: str | None) -> None:
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        wanted = " ".join(missing) if extra is None else f"'lightning-automl-vision[{extra}]'"
        raise ConfigError(
            f"format={name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed."
            f" Install what it needs: pip install {wanted}."
        )


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
