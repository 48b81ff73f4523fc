"""Draws that could teach nothing, as an earlier trial has drawn the same, are drawn again while there are others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.distributions import Parameter, same
from lightning_automl_vision.search.samplers import DRAWS
from lightning_automl_vision.search.slots import DEFAULT, VALUES
from lightning_automl_vision.search.spaces import Spaces
from lightning_automl_vision.search.tickets import RETRY_OF, TICKET, Tickets

_MOST_DRAWS = 10
_MOST_POINTS = 1000  # as many as a sweep may have trials


def is_given_back(tickets: Tickets, spaces: Spaces, trial: optuna.Trial, values: Mapping[str, Any]) -> bool:
    """Whether it repeats another: then its ticket waits for another draw, or is gone where all has been drawn."""
    told = trial.user_attrs
    if RETRY_OF in told or told.get(DEFAULT):
        return False
    before = [
        other
        for other in tickets.trials()
        if other.number < trial.number and VALUES in other.user_attrs and other.user_attrs[TICKET] != told[TICKET]
    ]
    if not any(same(json.loads(other.user_attrs[VALUES]), values) for other in before):
        return False
    left, draws = _left(spaces, before), int(told.get(DRAWS, 0))
    if left is None and draws >= _MOST_DRAWS:
        return False
    tickets.drop(trial)
    if left is None or left:
        tickets.draw_again(trial, left[0] if left and draws >= _MOST_DRAWS else None)
    return True


def _left(spaces: Spaces, before: list[FrozenTrial]) -> list[Mapping[str, Parameter]] | None:
    """The points that no trial has drawn yet; None where there are more than a sweep could try."""
    try:
        counts = (math.prod(len(law.grid()) for law in space.free.values()) for space in spaces.spaces)
        if sum(counts) > _MOST_POINTS:
            return None
        points = spaces.grid()
    except ConfigError:  # they cannot be counted
        return None
    drawn = [trial.params for trial in before]
    return [point for point in points if point not in drawn]
