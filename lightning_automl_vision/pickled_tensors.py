"""What a file of torch's holds beside tensors, and the tensors in it, without running anything that the file asks for.

A pickle may name any function and have it called. Here every name but those of containers, tensors and storages
stands for an object that keeps what it is given and does nothing.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_automl_vision.errors import WeightsError

DEEPEST = 64


class Inert:
    """An object of any class; ``state`` is what the class would have been given to restore it."""

    state: Mapping[Any, Any]

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        inert = object.__new__(cls)
        inert.state = {}
        return inert

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Takes anything."""

    # A pickle cannot restore a class as if it were an object: this lacks an argument then.
    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def append(self, item: Any) -> None:
        """Takes anything, as do the next two."""

    def extend(self, items: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Strided(Inert):
    """Called with a storage, an offset, a size and strides, it is the tensor."""

    def __new__(cls, storage: Tensor, offset: int, size: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
        if not isinstance(storage, Tensor) or prod(size) > len(storage):
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        return storage.as_strided(size, strides, offset)


class _Same(Inert):
    """Called with a tensor, as parameters are made of one, it is the tensor."""

    def __new__(cls, tensor: Any, *_: Any) -> Any:
        return tensor


class _Shape(Inert):
    def __new__(cls, sides: Any = ()) -> Any:
        return tuple(sides)


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch", "Size"): _Shape,
    ("torch._utils", "_rebuild_tensor"): _Strided,
    ("torch._utils", "_rebuild_tensor_v2"): _Strided,
    ("torch._utils", "_rebuild_parameter"): _Same,
    ("torch._utils", "_rebuild_parameter_with_state"): _Same,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, pickled: str) -> None:
        super().__init__(archive.open(pickled))
        self._archive = archive
        self._folder = pickled.removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, description: Any) -> Tensor:
        kind, dtype, key, _, count = description
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        if key not in self._storages:
            self._storages[key] = self._storage(f"{self._folder}data/{key}", dtype, int(count))
        return self._storages[key]

    def _storage(self, record: str, dtype: torch.dtype, count: int) -> Tensor:
        if self._archive.getinfo(record).file_size != count * dtype.itemsize:
            raise pickle.UnpicklingError("a storage is not as long as it should be")
        numbers = bytearray(self._archive.read(record))
        return torch.frombuffer(numbers, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def read_pickled(file: Path) -> Any:
    """Containers, tensors, and an Inert for anything else."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _Reader(archive, _checked_pickle(archive)).load()
    except zipfile.BadZipFile:
        raise WeightsError(
            f"{file} is no checkpoint as torch has written them since 1.6. Save it again where it was made."
        ) from None
    except Exception as error:  # whatever a damaged or a hostile file can make of it
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{file} cannot be read: {reason or type(error).__name__}. Copy it again.") from error


def _checked_pickle(archive: zipfile.ZipFile) -> str:
    """The name of the pickle in it; the numbers must lie there as they are."""
    found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise pickle.UnpicklingError("there is no data.pkl in it")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise pickle.UnpicklingError("it is compressed, as torch leaves none")
    order = found[0].replace("data.pkl", "byteorder")
    if order in archive.namelist() and archive.read(order).decode("ascii", "replace") != sys.byteorder:
        raise pickle.UnpicklingError("its numbers are in the other byte order")
    return found[0]


def module_tensors(module: Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a pickled module and of those in it, named and ordered as in its state dict."""
    if prefix.count(".") > DEEPEST:
        raise WeightsError("A module of the checkpoint holds itself, so that its tensors cannot be named.")
    passing = module.state.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, tensor in _entries(module, group):
            if isinstance(tensor, Tensor) and name not in passing:
                yield f"{prefix}{name}", tensor
    for name, part in _entries(module, "_modules"):
        if isinstance(part, Inert):
            yield from module_tensors(part, f"{prefix}{name}.")


def is_module(value: Any) -> bool:
    return isinstance(value, Inert) and "_modules" in value.state


def _entries(module: Inert, group: str) -> Iterator[tuple[str, Any]]:
    entries = module.state.get(group)
    if isinstance(entries, dict):
        yield from ((str(name), value) for name, value in entries.items())
