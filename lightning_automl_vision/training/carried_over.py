"""Starting from an earlier model: all that does not depend on classes, and of the rest what both call by one name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_automl_vision.data.classes import shown_names
from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import VisionModel
from lightning_automl_vision.tables import table
from lightning_automl_vision.training.earlier_model import EarlierModel
from lightning_automl_vision.training.start_weights import bare, read_values, tensors_in

Build = Callable[[int], VisionModel[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class CarriedOver:
    """``by_label`` are the tensors that came over row by row, ``new`` those that start anew, by the model's names."""

    file: str
    loaded: int
    by_label: Sequence[str] = ()
    new: Sequence[str] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        known = self.labels or {"carried over": (), "new": (), "left behind": ()}
        rows = [
            ("tensors loaded whole", str(self.loaded), ""),
            ("tensors carried over by label", str(len(self.by_label)), shown_names(self.by_label)),
            ("tensors that start anew", str(len(self.new)), shown_names(self.new)),
            *((f"labels {what}", str(len(names)), shown_names(names)) for what, names in known.items()),
        ]
        return table(("start", "", "which"), rows)


@dataclass(frozen=True)
class ClassRows:
    """Where a tensor has the rows of its classes: along ``axis``, after ``before`` blocks that are of no class.

    Each class has ``each`` rows: one block of so many, or with ``by_anchor`` one in each of so many blocks.
    """

    axis: int
    each: int
    before: int
    by_anchor: bool

    @classmethod
    def of(cls, own: Tensor, larger: Tensor, classes: int, *, by_anchor: bool) -> ClassRows | None:
        """Learnt from the same tensor of a model that has one class more; None where no rule explains it."""
        axes = [axis for axis, (few, many) in enumerate(zip(own.shape, larger.shape, strict=True)) if few != many]
        if len(axes) != 1:
            return None
        each = larger.shape[axes[0]] - own.shape[axes[0]]
        before, rest = divmod(own.shape[axes[0]] - each * classes, each)
        return None if rest or before < 0 else cls(axes[0], each, before, by_anchor)

    def rows(self, tensor: Tensor, classes: int) -> Tensor | None:
        """A view with a row for each block before and each class; None where the tensor is of another shape."""
        if tensor.ndim <= self.axis or tensor.shape[self.axis] != self.each * (self.before + classes):
            return None
        moved = tensor.movedim(self.axis, 0)
        blocks = self.before + classes
        parts: Tensor = moved.unflatten(0, (self.each, blocks) if self.by_anchor else (blocks, self.each))  # type: ignore[no-untyped-call]
        return parts.movedim(1, 0) if self.by_anchor else parts

    def carry(self, own: Tensor, given: Tensor, classes: Sequence[str], labels: Sequence[str]) -> bool:
        """Fill the rows of what both know; False where there is nothing of that kind."""
        mine, theirs = self.rows(own, len(classes)), self.rows(given, len(labels))
        if mine is None or theirs is None or mine.shape[1:] != theirs.shape[1:]:
            return False
        places = {name: place for place, name in enumerate(labels)}
        pairs = [(place, places[name]) for place, name in enumerate(classes) if name in places]
        mine[: self.before] = theirs[: self.before]
        for to, origin in pairs:
            mine[self.before + to] = theirs[self.before + origin]
        return bool(pairs or self.before)


def carry_over(
    model: VisionModel[Any, Any], earlier: EarlierModel, classes: Sequence[str], build: Build
) -> CarriedOver:
    """Fill the model, whatever its classes, and say what was filled; WeightsError for tensors of another model.

    ``build`` makes the same model for so many classes.
    """
    values = read_values(earlier.file, earlier.asked)
    labels = earlier.labels or _labels_in(values)
    tensors = _evaluated(tensors_in(values, earlier.asked))
    given = model.renamed({bare(name): tensor for name, tensor in tensors.items()})
    backbone = model.backbone()
    with torch.random.fork_rng(devices=[]):
        larger = build(len(classes) + 1).backbone().state_dict()
    loaded, by_label, new = _filled(backbone, given, larger, classes, labels, model.classes_by_anchor, earlier.asked)
    found = CarriedOver(
        file=str(earlier.file), loaded=loaded, by_label=by_label, new=new, labels=_compared(labels, classes)
    )
    LOG.info("%s starts from %s:\n%s", type(model).__name__, earlier.file, found.table())
    return found


@torch.no_grad()
def _filled(
    backbone: nn.Module,
    given: Mapping[str, Tensor],
    larger: Mapping[str, Tensor],
    classes: Sequence[str],
    labels: Sequence[str] | None,
    by_anchor: tuple[str, ...],
    asked: str,
) -> tuple[int, list[str], list[str]]:
    own = backbone.state_dict()  # whose tensors are the model's own
    loaded, by_label, new, filled = 0, list[str](), list[str](), set[int]()
    for name, tensor in own.items():
        value = given.get(bare(name))
        if value is not None and not value.isfinite().all():
            raise WeightsError(f"{asked}: {bare(name)} has numbers that are not finite. Start from another run.")
        if tensor.shape == larger[name].shape:
            if value is None and tensor.data_ptr() in filled:  # one that stands twice in a model stands once in a file
                continue
            _check_shape(name, tensor, value, asked)
        same = value is not None and value.shape == tensor.shape and (labels is None or list(labels) == list(classes))
        if value is not None and (tensor.shape == larger[name].shape or same):
            tensor.copy_(value)
            filled.add(tensor.data_ptr())
            loaded += 1
            continue
        rows = ClassRows.of(
            tensor, larger[name], len(classes), by_anchor=bool(by_anchor) and name.startswith(by_anchor)
        )
        carried = value is not None and rows is not None and rows.carry(tensor, value, classes, labels or ())
        (by_label if carried else new).append(name)
    return loaded, by_label, new


def _check_shape(name: str, tensor: Tensor, value: Tensor | None, asked: str) -> None:
    if value is not None and value.shape == tensor.shape:
        return
    has = "lacks it" if value is None else f"has it as {tuple(value.shape)}"
    raise WeightsError(
        f"{asked}: it is of another model: this one's {bare(name)} is {tuple(tensor.shape)}, and the file {has}."
        " Choose the same model, with the same keys of model, or start from another run."
    )


def _evaluated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a checkpoint that a training goes on from, the weights that are judged: averages, where there are some."""
    for prefix in ("averaged.model.", "model."):
        found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if found:
            return found
    return dict(tensors)


def _labels_in(values: Any) -> Sequence[str] | None:
    names = values.get("classes") if isinstance(values, Mapping) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _compared(labels: Sequence[str] | None, classes: Sequence[str]) -> dict[str, Sequence[str]]:
    """Nothing where nobody knows the labels of the file."""
    if labels is None:
        return {}
    return {
        "carried over": [name for name in classes if name in labels],
        "new": [name for name in classes if name not in labels],
        "left behind": [name for name in labels if name not in classes],
    }
