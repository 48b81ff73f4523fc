"""The classes of a data set while it is read, and their final order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lightning_automl_vision.data.rows import shown
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.samples import IntArray


class ClassIndex(dict[object, int]):
    """The index of each class in order of appearance; where classes are known, no other is taken in."""

    def __init__(self, known: Sequence[str] | None = None) -> None:
        super().__init__({name: index for index, name in enumerate(known or ())})
        self.known = known

    def __missing__(self, name: object) -> int:
        if self.fault(name):
            raise KeyError(name)
        self[name] = len(self)
        return self[name]

    def fault(self, name: object) -> tuple[str, str] | None:
        """Why this cannot be a class, as reason and text."""
        if not isinstance(name, str):
            return "label of a wrong type", f"a label must be text, not {shown(name)}"
        if not name.strip():
            return "empty label", f"the label is empty: {shown(name)}"
        if self.known is not None and name not in self:
            return "unknown label", (
                f"the label {shown(name)} does not occur in the training set.{nearest(name, self.known)} "
                f"Known labels: {shown_names(self.known)}"
            )
        return None

    def settle(self, arrays: Iterable[IntArray]) -> tuple[str, ...]:
        """The classes in use, sorted, or the known ones; the arrays are changed to refer to them."""
        if self.known is not None:
            return tuple(self.known)
        distinct = list({id(array): array for array in arrays}.values())
        used = np.zeros(len(self), dtype=bool)
        for array in distinct:
            used[array] = True
        classes = sorted(str(name) for name, index in self.items() if used[index])
        place = {name: index for index, name in enumerate(classes)}
        final = np.array([place.get(str(name), -1) for name in self], dtype=np.int64)
        for array in distinct:
            array[:] = final[array]
        return tuple(classes)


def shown_names(names: Sequence[str], most: int = 12) -> str:
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
