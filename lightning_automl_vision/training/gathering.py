"""What the processes of one training found, brought together."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import distributed

V = TypeVar("V")


def gathered(found: dict[int, V]) -> dict[int, V]:
    """By index what any process found; an image that a sampler gave to two of them to even them out counts once."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, found)
    return {index: value for part in parts for index, value in part.items()}
