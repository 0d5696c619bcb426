"""A pretended accelerator: counts what a GPU would have to wait for, without one.

Tensors of the model name "meta" as their device and compute on the CPU. What a CUDA device
would wait for (`nonzero`, boolean indexing, `.item()`, copies back) and copies to the device are
counted with the line of the project that asked for them; an operation that mixes tensors of the CPU
and of the device is a fault. Kernels are not timed.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
# Operations whose result the host must know.
WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"),
    *("unique_dim", "repeat_interleave.Tensor", "bincount", "equal"),
}
INDEXING = ("index", "index_put", "index_put_")
PACKAGE = Path(__file__).parents[1] / "yolor_d2"


class Counts:
    """Places of the project, by what they cause.

    Attributes:
        waits: the host waits for the device.
        copies: from the host to the device.
        mixed: tensors of both in one operation.
    """

    def __init__(self):
        self.waits: collections.Counter[str] = collections.Counter()
        self.copies: collections.Counter[str] = collections.Counter()
        self.mixed: collections.Counter[str] = collections.Counter()

    def take(self) -> dict[str, dict[str, int]]:
        """What was counted since the last call."""
        taken = {name: dict(counter) for name, counter in vars(self).items()}
        self.__init__()
        return taken


counts = Counts()


def place(what: str = "") -> str:
    """The innermost line of the project."""
    for frame in reversed(traceback.extract_stack()):
        if Path(frame.filename).is_relative_to(PACKAGE):
            return f"{what} {Path(frame.filename).relative_to(PACKAGE)}:{frame.lineno}".strip()
    return f"{what} elsewhere".strip()


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `held` has its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        shell = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=False,
        )
        shell.held = held
        return shell

    def __repr__(self):
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """Inside, tensors may be made on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def inner(x):
    return x.held if isinstance(x, OnDevice) else x


def outer(x):
    return OnDevice(x) if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) else x


def is_device(device) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def compute(func, args, kwargs):
    """Count one operation, and do it on the CPU."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, OnDevice) for x in tensors)
    name = func._schema.name.split("::")[1]
    overload = func._overloadname
    full = name if overload == "default" else f"{name}.{overload}"
    if there:
        plain = [x for x in tensors if not isinstance(x, OnDevice) and x.dim() > 0]
        if plain and (name in INDEXING or name == "copy_"):
            counts.copies[place(full)] += 1
        elif plain and name != "_to_copy":
            counts.mixed[place(full)] += 1
        masks = tree_leaves(args[1]) if name in INDEXING else ()
        boolean = any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in masks)
        if name in WAITING or full in WAITING or boolean:
            counts.waits[place(full)] += 1
    if name == "_to_copy":
        return copy_over(func, args, dict(kwargs), there)
    made = is_device(kwargs.get("device"))
    if made:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    if name == "_local_scalar_dense" or not (there or made):
        return out
    out = tree_map(outer, out)
    if func._schema.is_mutable and not made:
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def copy_over(func, args, kwargs, there: bool):
    """`Tensor.to`."""
    target = kwargs.pop("device", None)
    out = func(inner(args[0]), **kwargs)
    if target is None:
        return outer(out) if there else out
    if is_device(target) and not there:
        counts.copies[place("to")] += 1
    if there and not is_device(target):
        counts.waits[place("to")] += 1
    return outer(out) if is_device(target) else out


def making(function):
    """`torch.tensor` and its like, which make their tensor below the dispatcher."""

    def make(*args, device=None, **kwargs):
        if not is_device(device):
            return function(*args, device=device, **kwargs)
        counts.copies[place("made")] += 1
        return OnDevice(function(*args, **kwargs))

    return make


@contextlib.contextmanager
def pretending() -> Iterator[Counts]:
    """A device is there inside this context."""
    counts.take()
    makers = {name: making(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    with mock.patch.multiple(torch, **makers), Pretend():
        yield counts


def move(module: nn.Module) -> nn.Module:
    """The module with its tensors on the device."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                moved = nn.Parameter(OnDevice(value.data), requires_grad=value.requires_grad)
                part._parameters[name] = moved
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = OnDevice(value)
    return module
