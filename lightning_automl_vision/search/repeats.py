"""Draws that could teach nothing, as an earlier trial has drawn the same, are drawn again while there are others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import optuna

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.distributions import Parameter, as_text
from lightning_automl_vision.search.samplers import DRAWS
from lightning_automl_vision.search.slots import DEFAULT, VALUES
from lightning_automl_vision.search.spaces import Spaces
from lightning_automl_vision.search.tickets import RETRY_OF, TICKET, Tickets

_MOST_DRAWS = 10
_MOST_POINTS = 1000  # as many as a sweep may have trials


def is_given_back(
    tickets: Tickets,
    spaces: Spaces,
    trial: optuna.Trial,
    values: Mapping[str, Any],
    like_default: Sequence[Mapping[str, Any]] = (),
) -> bool:
    """Whether it repeats another, or is ``like_default``, as trial 0 is that has drawn nothing.

    Then its ticket waits for another draw, or is gone where all has been drawn.
    """
    told = trial.user_attrs
    if RETRY_OF in told or told.get(DEFAULT):
        return False
    before = [
        json.loads(other.user_attrs[VALUES])
        for other in tickets.trials()
        if other.number < trial.number and VALUES in other.user_attrs and other.user_attrs[TICKET] != told[TICKET]
    ]
    taken = {as_text(known) for known in (*before, *like_default)}
    if as_text(values) not in taken:
        return False
    left, draws = _left(spaces, taken), int(told.get(DRAWS, 0))
    if left is None and draws >= _MOST_DRAWS:
        return False
    tickets.drop(trial)
    if left is None or left:
        tickets.draw_again(trial, left[0] if left and draws >= _MOST_DRAWS else None)
    return True


def _left(spaces: Spaces, taken: Set[str]) -> list[Mapping[str, Parameter]] | None:
    """The points that no trial has drawn yet; None where there are more than a sweep could try."""
    try:
        counts = (math.prod(len(law.grid()) for law in space.free.values()) for space in spaces.spaces)
        if sum(counts) > _MOST_POINTS:
            return None
        points = spaces.points()
    except ConfigError:  # they cannot be counted
        return None
    return [point for text, point in points.items() if text not in taken]
