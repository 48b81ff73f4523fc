"""What trials left of each validation image, read and drawn from once; intervals, p-values, and why there are none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.search.comparing import Resampled, interval_of, p_value, resample
from lightning_automl_vision.search.per_image import PER_IMAGE, Judging, PerImage, load

# Why there is no interval, or no p-value.
NOT_KEPT, UNREADABLE, UNDEFINED, OTHERS = "not kept", "unreadable", "undefined", "other images"
# So many trials are held with all that they found; what is kept of each are its draws.
_AT_ONCE = 50


@dataclass(frozen=True)
class Known:
    """``images`` and ``interval`` are None for the reason that ``missing`` is."""

    images: Resampled | None = None
    interval: tuple[float, float] | None = None
    missing: str = ""


@dataclass
class Evidence:
    """``folder`` is that of the sweep; a trial goes by the name of its own folder, and never changes once it is known.

    A p-value is computed once for each trial and leader.
    """

    folder: Path
    _known: dict[str, Known] = field(default_factory=dict, init=False)
    _judgings: dict[Judging, Judging] = field(default_factory=dict, init=False)
    _leader: str | None = field(default=None, init=False)
    _chances: dict[str, float | None] = field(default_factory=dict, init=False)

    def of(self, names: Sequence[str]) -> Mapping[str, Known]:
        """Of all that were ever asked for."""
        new = [name for name in names if name not in self._known]
        for begin in range(0, len(new), _AT_ONCE):
            self._learn(new[begin : begin + _AT_ONCE])
        return self._known

    def p_values(self, names: Sequence[str], leader: str) -> Mapping[str, float | None]:
        """None for the leader itself, and where there is nothing to compare."""
        known = self.of([*names, leader])
        if leader != self._leader:
            self._leader, self._chances = leader, {leader: None}
        for name in names:
            if name not in self._chances:
                self._chances[name] = _chance(known[name].images, known[leader].images)
        return self._chances

    def comparable(self, name: str, other: str) -> bool:
        """Whether both have images, and the same."""
        images, others = (self.of([name, other])[one].images for one in (name, other))
        return images is not None and others is not None and images.judging.differs_from(others.judging) is None

    def saw_others(self, name: str, other: str) -> bool:
        """Whether both are known to have been judged, and not by the same images."""
        images, others = (self.of([one])[one].images for one in (name, other))
        return images is not None and others is not None and images.judging.differs_from(others.judging) is not None

    def _learn(self, names: Sequence[str]) -> None:
        groups: dict[Judging, dict[str, PerImage]] = defaultdict(dict)
        for name in names:
            file = self.folder / name / PER_IMAGE
            try:
                images = load(file)
            except DataError as error:
                if not any(known.missing for known in self._known.values()):  # else it was said once
                    LOG.warning("%s", error)
                self._known[name] = Known(missing=UNREADABLE if file.exists() else NOT_KEPT)
            else:
                judging = self._judgings.setdefault(images.judging, images.judging)
                groups[judging][name] = images
        for judging, trials in groups.items():
            for name, drawn in zip(trials, resample([*trials.values()]), strict=True):
                self._known[name] = _known(replace(drawn, judging=judging))


def _known(images: Resampled) -> Known:
    if not images.known:
        return Known(missing=UNDEFINED)
    low, high = interval_of(images)
    return Known(images=images, interval=(low, high))


def _chance(images: Resampled | None, leader: Resampled | None) -> float | None:
    if images is None or leader is None or images.judging.differs_from(leader.judging) is not None:
        return None
    return p_value(images, leader)
