"""What every format writes alike: the graph of a model, and what model.json holds of it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError, VisionError
from lightning_automl_vision.storage import storage_fault

if TYPE_CHECKING:
    from lightning_automl_vision.export.formats import Options
    from lightning_automl_vision.export.graph import Graph
    from lightning_automl_vision.predictor import OpenedModel

_SIDE = 64  # of an example, where pictures may have any size


def graph_of(opened: OpenedModel, options: Options) -> Graph:
    """Of the model, built anew."""
    model = opened.build()
    model.for_prediction()
    return model.graph(options.choices)


def example_side(opened: OpenedModel) -> int:
    """The side of the pictures that a graph is made with."""
    return opened.card.image_size or _SIDE


def facts_of(
    graph: Graph, opened: OpenedModel, options: Options, format: str, files: Sequence[str], *, any_size: bool = True
) -> dict[str, Any]:
    """What is to be known of an exported network; without ``any_size`` it takes its example's alone."""
    free = any_size and 2 in graph.axes
    return {
        "format": format,
        "files": list(files),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "normalise": options.normalise,
        "mean": list(graph.mean),
        "std": list(graph.std),
        "precision": options.precision,
        "quantise": options.quantise,
        **({} if options.quantise is None else {"calibrated_on": list(options.calibrated_on)}),
        "image_size": None if free else opened.card.image_size,
        "fixed": dict(graph.fixed),
        "at_most": dict(graph.at_most),
        **options.choices,
    }


@contextmanager
def exporter(format: str, model: str) -> Iterator[None]:
    """ConfigError for whatever an exporter cannot follow; there is no end of networks, nor of what it says of them."""
    try:
        with unheard():
            yield
    except Exception as error:
        if isinstance(error, VisionError) or storage_fault(error) is not None:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"format={format}: {model} cannot be exported so: {reason}. Choose another format or model."
        ) from error


@contextmanager
def unheard() -> Iterator[None]:
    """Exporters tell of shapes and deprecations that are known here; whether the outcome is right is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_whole(file: Path, save: Callable[[IO[bytes]], object]) -> None:
    """By way of memory: where torch itself writes to a disk that is full, it ends the process."""
    content = io.BytesIO()
    save(content)
    file.write_bytes(content.getbuffer())


def axes_of(graph: Graph) -> Mapping[str, dict[int, str]]:
    """The free axes of every input and output, by name."""
    return {"images": dict(graph.axes), **{name: dict(axes) for name, axes in graph.outputs.items()}}
