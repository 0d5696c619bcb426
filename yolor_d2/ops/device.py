"""What a computation on a GPU must not do: wait for the host, or be waited for.

A result whose shape depends on values (`nonzero`, boolean indexing) makes the host wait for the
GPU, and so does every tensor that is made from numbers in memory that is not pinned. On the CPU
the former is cheap and saves work.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor


def shapes_may_depend_on_values(x: Tensor) -> bool:
    """Whether rows that do not count may be left out where `x` is: only on the CPU, and not in what
    is compiled, where every other shape would be another graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """Nested tuples of numbers as a tensor in the dtype and on the device of `like`.

    Nothing is copied there. It is made once, but in what is compiled, traced or exported; not to be
    changed in place.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():  # pyright: ignore[reportPrivateUsage]
        return make_constant(values, like.dtype, like.device)
    return kept_constant(values, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def kept_constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """See `constant`."""
    # Tensors made in inference mode could not be used in training.
    with torch.inference_mode(False):
        return make_constant(values, dtype, device)


def make_constant(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """See `constant`."""
    if isinstance(values, tuple):
        parts = cast("tuple[Any, ...]", values)
        return torch.stack([make_constant(part, dtype, device) for part in parts])
    return torch.full((), values, dtype=dtype, device=device)
