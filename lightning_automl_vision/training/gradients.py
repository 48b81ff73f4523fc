"""The mean of what several processes' gradients are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_automl_vision.training.gathering import agreed


@torch.no_grad()
def mean_gradients(module: nn.Module) -> None:
    """Each gradient becomes the mean of all processes', of which those without one count as zeros.

    What none of them has a gradient for is left without.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight, is_used in zip(weights, agreed(*(weight.grad is not None for weight in weights)), strict=True):
        if is_used:
            own = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = mean_of_all(own.contiguous()).view_as(own)


def mean_of_all(values: Tensor) -> Tensor:
    """On a CPU its digits do not depend on where in the tensor a value stands.

    Of three processes and more, sums that go round are begun by another process in each part of a tensor, and what is
    sent together differs between a training and one that goes on.
    """
    size = distributed.get_world_size()
    mine = values * (1 / size)
    if size == 2 or values.device.type != "cpu":
        distributed.all_reduce(mine)
        return mine
    flat = nn.functional.pad(mine.reshape(-1), (0, -mine.numel() % size))
    parts, whole = torch.empty_like(flat), torch.empty_like(flat)
    distributed.all_to_all_single(parts, flat)
    first, *others = parts.view(size, -1)
    for other in others:
        first += other
    distributed.all_gather_into_tensor(whole, first.contiguous())
    return whole[: mine.numel()].view_as(mine)


def add_in_order(model: DistributedDataParallel) -> None:
    """Let gradients be brought together by ``mean_of_all``."""

    def hook(_, bucket):  # type: ignore[no-untyped-def]  # torch refuses annotations that are texts
        mean: torch.futures.Future[Any] = torch.futures.Future()
        mean.set_result(mean_of_all(bucket.buffer()))
        return mean

    model.register_comm_hook(None, hook)
