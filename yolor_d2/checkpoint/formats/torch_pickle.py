"""Pickles of `torch.save`: a tensor becomes a description, checked to lie inside its storage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from ..errors import WeightsFileError, shorten
from .pickle_reader import Global, Inert, PickleReader

MAX_AXES = 8
# Above any file; keeps all arithmetic on sizes small, also for tensors without elements.
MAX_NUMEL = 2**40

DTYPES = {
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
REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)
ORDERED_DICT = Global("collections", "OrderedDict")
# Protocol 2 spells the module of built-in names as Python 2 did.
BUILTINS = ("builtins", "__builtin__")
SETS = [Global(module, name) for module in BUILTINS for name in ("set", "frozenset")]
# What weights and the plain attributes of a model name. Nothing of it is ever imported or called.
NAMES = {
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"},
    "torch": {
        *DTYPES,
        *(str(dtype).removeprefix("torch.") for dtype in DTYPES.values()),
        "Size",
        "device",
    },
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    # Fitness and other numbers of a training run.
    "numpy": {"dtype", "ndarray", "float16", "float32", "float64", "int32", "int64", "bool_"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "_codecs": {"encode"},
    **dict.fromkeys(
        BUILTINS,
        {"set", "frozenset", "list", "dict", "tuple", "object", "slice", "range"}
        | {"bool", "int", "float", "complex", "str", "bytes"},
    ),
}
# Packages whose classes a pickled model is made of.
PACKAGES = ("models", "utils", "torch.nn", "pytorch_wavelets")


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file, as the pickle declares it."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a view of a storage, with offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, once read."""
        itemsize = 4 if self.storage.dtype.is_floating_point else self.storage.dtype.itemsize
        return math.prod(self.size) * itemsize


class TorchPickleReader(PickleReader):
    """Reads the pickle of a saved object; gives `StoredTensor` for tensors."""

    def __init__(self, stream: BinaryIO):
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}

    def admit(self, named: Global) -> None:
        module, name = named.module, named.name
        known = name in NAMES.get(module, ())
        inside = any(module == package or module.startswith(package + ".") for package in PACKAGES)
        # A dotted name reaches into whatever the module has imported.
        if known or (inside and name.isidentifier()):
            return
        if module in ("torch", "torch.storage", "torch._utils") and (
            name.endswith("Storage") or name.startswith("_rebuild_")
        ):
            raise WeightsFileError(
                f"it holds tensors of {shorten(str(named))}; expected plain tensors of "
                f"{', '.join(DTYPES)}"
            )
        super().admit(named)

    def construct(self, callee: Global, arguments: tuple) -> Any:
        if callee == REBUILD_TENSOR:
            return make_stored_tensor(*arguments[:4])
        if callee in REBUILD_PARAMETER:
            if not arguments or type(arguments[0]) is not StoredTensor:
                raise WeightsFileError("it holds a parameter that is no plain tensor")
            return arguments[0]
        items = arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else []
        if callee == ORDERED_DICT:
            return self.make_dict(items)
        if callee in SETS:
            return self.make_set(items)
        return Inert(callee)

    def load_persistent(self, identifier: Any) -> Any:
        if type(identifier) is not tuple or len(identifier) < 2:
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        if identifier[0] == "module":
            # The legacy container stores the source of a class with it; only the name is kept.
            return identifier[1]
        # (kind, type, key, location, numel), in the legacy container also the part that is viewed.
        if identifier[0] != "storage" or len(identifier) not in (5, 6) or any(identifier[5:]):
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        _, kind, key, _, numel = identifier[:5]
        if type(kind) is not Global or kind.module != "torch" or kind.name not in DTYPES:
            raise WeightsFileError(f"it has a storage of unknown type; known: {', '.join(DTYPES)}")
        if type(key) is not str or type(numel) is not int or not 0 <= numel <= MAX_NUMEL:
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        storage = Storage(key, DTYPES[kind.name], numel)
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsFileError(f"storage {shorten(key)} is declared in two ways")
        return storage


def make_stored_tensor(
    storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None
) -> StoredTensor:
    """Check a tensor as a pickle describes it.

    Raises:
        WeightsFileError: unless every element lies inside the storage, and no more elements than
            the storage has (an expanded tensor takes any memory once it is contiguous).
    """
    well_formed = (
        type(storage) is Storage
        and type(size) is tuple
        and type(stride) is tuple
        and len(size) == len(stride) <= MAX_AXES
        and all(type(n) is int and 0 <= n <= MAX_NUMEL for n in (offset, *size, *stride))
    )
    if not well_formed:
        raise WeightsFileError(
            f"it has a malformed tensor; expected a storage, an offset and sizes and strides of at "
            f"most {MAX_AXES} axes, each from 0 to {MAX_NUMEL:,}"
        )
    numel = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if numel else 0
    if end > storage.numel or numel > storage.numel:
        raise WeightsFileError(
            f"it has a tensor outside of its storage {shorten(storage.key)}, which has "
            f"{storage.numel:,} elements"
        )
    if math.prod(max(n, 1) for n in size) > MAX_NUMEL:
        raise WeightsFileError(f"it has a tensor of more than {MAX_NUMEL:,} elements")
    return StoredTensor(storage, offset, size, stride)
