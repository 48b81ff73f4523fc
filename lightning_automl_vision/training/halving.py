"""Training steps that are done again, fewer images at a time, when the memory is too small for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from torch import Tensor

from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import Batch
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.training.gathering import agreed, each, same_tensors
from lightning_automl_vision.training.gradients import mean_gradients
from lightning_automl_vision.training.memory import (
    Portion,
    first_line,
    forget_failed,
    go_without_code,
    halved,
    in_pieces,
    is_lone_picture,
    is_out_of_memory,
    too_small,
)
from lightning_automl_vision.training.random_states import RandomStates
from lightning_automl_vision.training.strategy import Processes

if TYPE_CHECKING:
    from lightning_automl_vision.tasks.base import VisionTask


@dataclass(frozen=True)
class _Given:
    """A batch of the step that is being computed."""

    number: int
    batch: Batch[Any]
    kwargs: OrderedDict[str, Any]
    accumulated: int


class _Before:
    """What a step changes before the weights: statistics of norms, random states, what was counted.

    There is one for all steps: what a step finds is copied over what the one before it found.
    """

    def __init__(self, task: VisionTask[Any, Any]) -> None:
        self._task = task
        self._places = [(module._buffers, name) for module in task.model.modules() for name in module._buffers]
        self._buffers: list[Tensor | None] = []
        self._rows: list[_Row] = []

    def take(self) -> None:
        buffers = [held[name] for held, name in self._places]
        if not self._buffers or not all(map(is_, buffers, self._buffers)):
            self._buffers, self._rows = buffers, _rows(buffers)
        with torch.no_grad():
            for row in self._rows:
                row.take()
        self._random = RandomStates()
        self._counted = self._task.counted_so_far()

    def restore(self) -> None:
        with torch.no_grad():
            for row in self._rows:
                row.restore()
        for (held, name), buffer in zip(self._places, self._buffers, strict=True):
            held[name] = buffer
        for parameter in self._task.model.parameters():
            parameter.grad = None
        self._random.restore()
        self._counted()


class _Row:
    """A copy, in one tensor, of small ones of a kind: one call for all of them takes a tenth of the time."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._copy = torch.cat(tensors)

    def take(self) -> None:
        torch.cat(self._tensors, out=self._copy)

    def restore(self) -> None:
        parts = torch.split(self._copy, [len(tensor) for tensor in self._tensors])
        torch._foreach_copy_(self._tensors, parts)


def _rows(buffers: Iterable[Tensor | None]) -> list[_Row]:
    """One for each kind on each device; a tensor that does not lie in one piece has its own."""
    kinds: dict[object, list[Tensor]] = {}
    for buffer in {id(buffer): buffer for buffer in buffers if buffer is not None}.values():
        whole = buffer.is_contiguous()
        tensor = buffer.detach().view(-1) if whole else buffer.detach()
        kinds.setdefault((buffer.dtype, buffer.device) if whole else id(buffer), []).append(tensor)
    return [_Row(tensors) for tensors in kinds.values()]


@dataclass
class _Step:
    """The batches since the last optimiser step."""

    given: list[_Given] = field(default_factory=list)


class _TooSmallElsewhereError(MemoryError):
    """Another process could not compute its part of the step."""


class StepsInPieces(_AutomaticOptimization):
    """Lightning's way from a batch to gradients and a step, which halves what is computed at once when memory ends.

    The step that failed is done again from its first batch on, with the same images, random numbers and statistics of
    norms as before. Several processes bring their gradients together while they compute them, and none can do a step
    again alone. So a batch that asks more of the memory of one of them than any before is computed by each for
    itself: they hear whether all have come through before they bring anything together, and halve alike where one
    has not. On any other batch of theirs the error stands.
    """

    def __init__(self, trainer: L.Trainer, asked: int) -> None:
        super().__init__(trainer)
        self._asked = asked
        self._step: _Step | None = None
        self._before: _Before | None = None
        self._updates_weights = False
        self._most = (0, 0)
        self._is_apart = self._has_heard = False

    def run(self, optimizer: Any, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        if self._step is None:
            self._step = _Step()
            self._before = self._before or _Before(self._task)
            self._before.take()
        batch = kwargs["batch"]
        self._step.given.append(_Given(batch_idx, batch, kwargs, self.trainer.accumulate_grad_batches))
        steps, again = self.trainer.global_step, False
        self._is_apart = self._can_be_apart and self._asks_for_more(batch)
        while (done := self._attempted(optimizer, again=again)) is None:
            self._make_smaller()
            again = True
        if self.trainer.global_step != steps:
            self._step = None
        return done

    @property
    def _task(self) -> VisionTask[Any, Any]:
        task: Any = self.trainer.lightning_module
        return task  # type: ignore[no-any-return]

    @property
    def _is_one_of_many(self) -> bool:
        return self.trainer.world_size > 1

    @property
    def _can_be_apart(self) -> bool:
        """Norms that see the batches of all processes have them wait for one another in the middle of a step."""
        strategy = self.trainer.strategy
        return isinstance(strategy, Processes) and strategy._layer_sync is None

    def _asks_for_more(self, batch: Batch[Any]) -> bool:
        """Whether any process has more values of pictures, or more objects, than it had at a time before."""
        values, objects = batch.images.numel(), batch.targets.labels.numel()
        asks = values > self._most[0] or objects > self._most[1]
        self._most = max(values, self._most[0]), max(objects, self._most[1])
        return agreed(asks)[0]

    def _attempted(self, optimizer: Any, *, again: bool) -> dict[str, Any] | None:
        """None where the memory was too small; what had been computed is let go of on return."""
        assert self._step is not None
        *earlier, last = self._step.given
        self._updates_weights = self._has_heard = False
        if self._is_apart and (again or not earlier):
            same_tensors(self._task)
        try:
            with self._apart():
                for given in earlier if again else ():
                    self._add_gradients(optimizer, given, self._parts(given))
                *first, (portion, piece) = self._parts(last)
                self._add_gradients(optimizer, last, first)
                self.trainer.accumulate_grad_batches = last.accumulated
                self._task.portion = portion
                done = super().run(optimizer, last.number, OrderedDict({**last.kwargs, "batch": piece}))
            if not self._has_heard:
                self._hear_of_others()
            return done
        except (RuntimeError, MemoryError, ValueError) as error:
            size = self._size
            if is_lone_picture(error) and self._task.sizes.training is not None:
                raise too_small("training_batch_size", self._asked, least=2) from None
            stands = self._is_one_of_many and not self._is_apart
            if not is_out_of_memory(error) or self._updates_weights or stands:
                raise
            if not self._has_heard:
                agreed(True)
            if size == 1:
                raise too_small("training_batch_size", self._asked) from None
            go_without_code(error)
            return None

    def _apart(self) -> AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.apart() if self._is_apart and isinstance(strategy, Processes) else nullcontext()

    def _hear_of_others(self) -> None:
        """Once for each attempt at a batch that every process computes for itself."""
        if self._is_apart:
            self._has_heard = True
            if agreed(False)[0]:
                raise _TooSmallElsewhereError

    @property
    def _size(self) -> int:
        """The most images that were computed at once."""
        assert self._step is not None
        largest = max(len(given.batch) for given in self._step.given)
        return min(self._task.sizes.training or largest, largest)

    def _parts(self, given: _Given) -> list[tuple[Portion, Batch[Any]]]:
        pieces = in_pieces(given.batch, self._task.sizes.training)
        if len(pieces) == 1:
            return [(Portion(), given.batch)]
        return [
            (Portion(len(piece) / len(given.batch), ends=number == len(pieces)), piece)
            for number, piece in enumerate(pieces, 1)
        ]

    def _add_gradients(self, optimizer: Any, given: _Given, parts: Sequence[tuple[Portion, Batch[Any]]]) -> None:
        self.trainer.accumulate_grad_batches = given.accumulated
        for portion, piece in parts:
            self._task.portion = portion
            kwargs = OrderedDict({**given.kwargs, "batch": piece})
            with _block_parallel_sync_behavior(self.trainer.strategy, block=True):
                self._make_closure(kwargs, optimizer, given.number)()

    def _make_smaller(self) -> None:
        assert self._before is not None
        task, size = self._task, max(each(self._size))
        step = self.optim_progress.optimizer.step
        step.total.ready, step.current.ready = step.total.completed, step.current.completed
        task.sizes.training = halved(size)
        self._before.restore()
        forget_failed()
        LOG.warning(
            "The memory is too small to train on %d images at once: from step %d on it is %d at a time, with their"
            " gradients added up, so that a step learns from the same images as before.",
            size,
            self.trainer.global_step + 1,
            task.sizes.training,
        )

    def _make_zero_grad_fn(self, batch_idx: int, optimizer: Any) -> None:
        """The task does so after each step: before a piece it would forget those that came before."""

    def _optimizer_step(self, batch_idx: int, train_step_and_backward_closure: Callable[[], Tensor | None]) -> None:
        def gradients() -> Tensor | None:
            loss = train_step_and_backward_closure()
            self._hear_of_others()
            self._updates_weights = True  # from here on a step cannot be done again
            if self._is_apart:
                mean_gradients(self._task)
            return loss

        super()._optimizer_step(batch_idx, gradients)


def recover_memory(trainer: L.Trainer, training: TrainingConfig) -> None:
    """Let a trainer that has not begun do what does not fit in pieces."""
    trainer.fit_loop.epoch_loop.automatic_optimization = StepsInPieces(trainer, int(training.training_batch_size))


def why_it_failed(error: BaseException, training: TrainingConfig) -> TrainingError | None:
    """In words of the user's, where what a training was ended by has to do with the size of its batches."""
    size = training.training_batch_size
    if is_lone_picture(error):
        return TrainingError(
            f"A batch holds one picture of {training.training_crop_size} pixels, which is a single value where the"
            " model's batch norms see it: they cannot train on that."
            f" Change training.training_batch_size={size}: two pictures are the least."
        )
    if is_out_of_memory(error):
        smaller = f", such as training.training_batch_size={halved(int(size))}" if int(size) > 1 else ""
        return TrainingError(
            f"The memory is too small for training.training_batch_size={size}: {first_line(error)}. Give smaller"
            f" batches{smaller}, training.number_of_workers=0, or choose a smaller model."
        )
    return None
