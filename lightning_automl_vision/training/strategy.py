"""How Lightning trains with several processes that are connected, and what becomes of a configuration among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_automl_vision.models import Batch, BoxTargets
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.trainer_settings import TrainerConfig
from lightning_automl_vision.training.gathering import agreed, is_connected, share
from lightning_automl_vision.training.gradients import add_in_order
from lightning_automl_vision.training.local_ranks import Place
from lightning_automl_vision.training.random_states import random_states, set_random_states
from lightning_automl_vision.training.ranks import Started, launched

if TYPE_CHECKING:
    from lightning_automl_vision.tasks.base import VisionTask

_TRIED = 2  # pictures: batch norms take no fewer


class Processes(DDPStrategy):
    """Lightning's own, but that an evaluation asks nothing of the other processes, which may have fewer batches."""

    _is_apart = False

    def configure_ddp(self) -> None:
        super().configure_ddp()
        if self.root_device.type == "cpu" and share().size > 2:
            assert isinstance(self.model, DistributedDataParallel)
            add_in_order(self.model)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it training steps ask nothing of the others either, and what comes of them stays here."""
        self._is_apart = True
        try:
            yield
        finally:
            self._is_apart = False

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        if not self._is_apart:
            return super().training_step(*arguments, **options)
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self.lightning_module.training_step(*arguments, **options)

    def validation_step(self, *arguments: Any, **options: Any) -> Any:
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*arguments, **options)


def for_processes(training: TrainingConfig, trainer: TrainerConfig) -> TrainingConfig:
    """What each process is to do of it: its part of the nominal batch, at a learning rate that may be scaled."""
    processes = share().size
    if processes == 1:
        return training
    nominal = training.nominal_batch_size
    rate = training.learning_rate * (processes if trainer.scale_learning_rate else 1)
    return replace(
        training,
        learning_rate=rate,
        nominal_batch_size=None if nominal is None else max(round(nominal / processes), 1),
    )


def surroundings() -> list[Started]:
    """What Lightning's trainer takes a process for that trains alone, whatever a cluster's variables say of its job."""
    if is_connected():
        return []
    return [Started(Place(rank=0, size=1, local_rank=0, local_size=1, node_rank=0, address="127.0.0.1", port=0))]


def devices_of(trainer: TrainerConfig, *, unused: bool) -> dict[str, Any]:
    """What Lightning's trainer is told of processes; without a connection one device, whatever was asked for."""
    if not is_connected():
        return {"devices": 1}
    environment = launched(trainer) or Started(_place(trainer))
    return {
        "devices": trainer.devices,
        "num_nodes": trainer.num_nodes,
        "sync_batchnorm": trainer.sync_batchnorm,
        "strategy": Processes(cluster_environment=environment, find_unused_parameters=unused),
    }


def leave_ending_to_us(trainer: L.Trainer) -> None:
    """Lightning asks in each batch, on the device, whether the first process was told to end, and tells the others from
    within its handler, in the middle of whatever they do: what asks for an end and who hears of it is in ending.py.
    """
    setattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", lambda: None)  # noqa: B010
    setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010


def _place(trainer: TrainerConfig) -> Place:
    """Of a process that was started by nobody else: it is connected, wherever that was."""
    rank, size, _ = share()
    return Place(
        rank=rank,
        size=size,
        local_rank=rank % trainer.devices,
        local_size=trainer.devices,
        node_rank=rank // trainer.devices,
        address="127.0.0.1",
        port=0,
    )


def leaves_weights_out(task: VisionTask[Any, Any], loader: Any, trainer: TrainerConfig) -> bool:
    """Whether a step may have no use for a weight, for which the other processes would wait.

    The losses of a few training pictures are looked at, and of the same without objects, on which a detector may leave
    a head out; nothing of that stays.
    """
    if not is_connected():
        return False
    if trainer.find_unused_parameters is not None:
        return trainer.find_unused_parameters
    return agreed(any(_left_out(task, batch) for batch in _tried(loader)))[0]


def _tried(loader: Any) -> Iterator[Batch[Any]]:
    draws = [draw for draw, _ in zip(loader.sampler, range(_TRIED), strict=False)]
    batch = loader.collate_fn([loader.dataset[draw] for draw in (draws * _TRIED)[:_TRIED]])
    if not isinstance(batch, Batch):  # a fault of the data, of which the training will tell
        return
    yield batch
    if isinstance(batch.targets, BoxTargets):
        yield replace(batch, targets=_emptied(batch.targets))


def _emptied(targets: BoxTargets) -> BoxTargets:
    parts = {"polygons": ()} if hasattr(targets, "polygons") else {}
    values = {name: getattr(targets, name)[:0] for name in ("labels", "boxes", "crowd")}
    return replace(targets, **values, counts=(0,) * len(targets.counts), **parts)  # type: ignore[arg-type]


def _left_out(task: VisionTask[Any, Any], batch: Batch[Any]) -> bool:
    model = task.model
    buffers, random = [buffer.clone() for buffer in model.buffers()], random_states()
    task.train()
    try:
        losses = model.losses(batch.to(next(model.parameters()).device))
        reached = _weights_below([loss for loss in losses.values() if loss.requires_grad])
    finally:
        set_random_states(random)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
    return any(weight.requires_grad and id(weight) not in reached for weight in model.parameters())


def _weights_below(losses: Sequence[Tensor]) -> set[int]:
    """Whatever a backward pass would come by."""
    waiting: list[Any] = [loss.grad_fn for loss in losses]
    seen, weights = set[Any](), set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (weight := getattr(node, "variable", None)) is not None:
            weights.add(id(weight))
        waiting.extend(below for below, _ in node.next_functions)
    return weights
