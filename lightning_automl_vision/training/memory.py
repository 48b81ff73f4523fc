"""Batches that the memory is too small for are computed in pieces, whose gradients or answers are put together."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch

from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import Batch

R = TypeVar("R")
# How those say it that have no class of their own for it: torch on a CPU, oneDNN, cuDNN, cuBLAS, mps.
_TOO_SMALL = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|unable to allocate|bad_alloc|_ALLOC_FAILED"
    r"|could not create a (?:memory|primitive)|insufficient memory|buffer size",
    re.IGNORECASE,
)
_NO_CODE = "could not create a primitive"
_LONE_PICTURE = "more than 1 value per channel"


class MemoryTooSmallError(TrainingError):
    """Even the smallest part of a batch does not fit."""


@dataclass
class BatchSizes:
    """How many images are computed at once where a whole batch did not fit; None where every one does."""

    training: int | None = None
    validation: int | None = None

    def of_training(self, asked: int) -> int:
        return min(self.training or asked, asked)

    def of_validation(self, asked: int) -> int:
        return min(self.validation or asked, asked)


@dataclass(frozen=True)
class Portion:
    """What is computed of a training batch: a share of its images; ``ends`` it."""

    of_batch: float = 1.0
    ends: bool = True


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _TOO_SMALL.search(str(error)) is not None


def is_lone_picture(error: BaseException) -> bool:
    """Whether batch norms had a single value to learn from; torch has no class of its own for it."""
    return isinstance(error, ValueError) and _LONE_PICTURE in str(error)


def too_small(name: str, asked: int | None = None, *, least: int = 1) -> MemoryTooSmallError:
    """``least`` is how many pictures at a time were tried at last."""
    pictures = "one picture" if least == 1 else f"{least} pictures"
    given, again = "" if asked is None else f"={asked}", "."
    if asked is not None and asked > least:
        again = (
            " after larger parts had failed, whose memory does not always come back within a process. Another may have"
            f" room if it begins with training.{name}={max(halved(halved(asked)), least)} or =auto."
        )
    return MemoryTooSmallError(
        f"The memory is too small for training.{name}{given}, even with {pictures} at a time{again} Give the model"
        " smaller pictures, choose a smaller model, or go where there is more memory."
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")[:200]


def halved(size: int) -> int:
    return -(-size // 2)


def in_pieces(batch: Batch[Any], size: int | None) -> list[Batch[Any]]:
    """The batch in order, in as few parts of at most ``size`` images as can be, as large as one another."""
    images = len(batch)
    if size is None or size >= images:
        return [batch]
    count = -(-images // size)
    bounds = [0, *accumulate(images // count + (number < images % count) for number in range(count))]
    return [_cut(batch, slice(*places)) for places in pairwise(bounds)]


def _cut(batch: Batch[Any], places: slice) -> Batch[Any]:
    return replace(
        batch,
        images=batch.images[places],
        targets=batch.targets.part(places),
        keys=batch.keys[places],
        sizes=batch.sizes[places],
        indices=batch.indices[places],
        places=batch.places[places],
        dropped=0 if places.start else batch.dropped,
        gains=None if batch.gains is None else batch.gains[places],
        windows=batch.windows[places],
    )


def evaluated(compute: Callable[[Batch[Any]], R], batch: Batch[Any], sizes: BatchSizes) -> list[R]:
    """What is computed of a batch, or of each of its pieces where the memory is too small for all at once."""
    while True:
        done = _attempted(compute, in_pieces(batch, sizes.validation))
        if done is not None:
            return done
        size = min(sizes.validation or len(batch), len(batch))
        if size == 1:
            raise too_small("validation_batch_size")
        sizes.validation = halved(size)
        forget_failed()
        LOG.warning(
            "The memory is too small to evaluate %d images at once: from now on it is %d at a time.",
            size,
            sizes.validation,
        )


def _attempted(compute: Callable[[Batch[Any]], R], pieces: Sequence[Batch[Any]]) -> list[R] | None:
    """None where the memory was too small; what had been computed is let go of on return."""
    try:
        return [compute(piece) for piece in pieces]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        go_without_code(error)
        return None


def forget_failed() -> None:
    """Give the memory of what could not be finished back to whoever asks next."""
    gc.collect()
    _drop_backward()
    torch.cuda.empty_cache()  # does nothing where there is none


def go_without_code(error: BaseException) -> None:
    """A oneDNN that had no memory for its code makes none any more, whatever is given back: it is used no longer."""
    onednn: Any = torch.backends.mkldnn
    if _NO_CODE in str(error) and onednn.enabled:
        onednn.enabled = False
        LOG.warning("There was no memory for the code that oneDNN makes: from now on it is computed without, slower.")


def _drop_backward() -> None:
    """On a CPU, torch keeps what was left of a backward pass that failed until a pass with a lower number comes by."""
    with torch.inference_mode(False), torch.enable_grad():
        passed: Any = torch.zeros(1, requires_grad=True).sum()
        passed.grad_fn._set_sequence_nr(0)
        passed.backward()
