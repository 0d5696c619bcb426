"""How an implicit tensor meets an explicit feature (paper section 4.2).

An operator says here what it computes and, where it can, as which affine map: by that map
`layers.fuse` folds it into the convolutions beside it. An operator without one is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .registry import Registry

KEY = "MODEL.YOLOR.IMPLICIT"


class Affine(NamedTuple):
    """What an operator makes of a feature x of C channels: [before, scale * x + shift].

    Attributes:
        scale: (C,), or None for ones.
        shift: (C,), or None for zeros.
        before: (D,) constant channels in front of x, or None for no such channels.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    before: Tensor | None = None


class Operator:
    """How an implicit tensor g meets an explicit feature x, to be subclassed.

    Attributes:
        neutral: the value of g at which the result is x, as far as there is one; where g starts.
    """

    neutral: float = 0.0

    def apply(self, x: Tensor, g: Tensor) -> Tensor:
        """(N, C, H, W) feature and (1, C, 1, 1) implicit tensor to (N, `out_channels`, H, W)."""
        raise NotImplementedError

    def out_channels(self, channels: int) -> int:
        """Channels of the result for so many of x; where they differ, the next layer is wider."""
        return channels

    def affine(self, g: Tensor) -> Affine | None:
        """The same as a map of each channel, for (C,) values g; None if there is no such map."""
        return None


OPERATORS: Registry[Operator] = Registry("operator of implicit knowledge", KEY)


def register_operator(name: str) -> Callable[[type[Operator]], type[Operator]]:
    """Decorator that makes a subclass of `Operator` known as a word of `MODEL.YOLOR.IMPLICIT`.

    Raises:
        ValueError: when the name is taken, or is not one word.
    """

    def keep(kind: type[Operator]) -> type[Operator]:
        OPERATORS.add(name, kind())
        return kind

    return keep


@register_operator("add")
class Add(Operator):
    """x + g, a shift."""

    def apply(self, x: Tensor, g: Tensor) -> Tensor:
        return x + g

    def affine(self, g: Tensor) -> Affine:
        return Affine(shift=g)


@register_operator("mul")
class Multiply(Operator):
    """x * g, a scale."""

    neutral = 1.0

    def apply(self, x: Tensor, g: Tensor) -> Tensor:
        return x * g

    def affine(self, g: Tensor) -> Affine:
        return Affine(scale=g)


@register_operator("concat")
class Concatenate(Operator):
    """[g, x]: the implicit part comes first, as the authors' code has it. g starts near zero."""

    def apply(self, x: Tensor, g: Tensor) -> Tensor:
        return torch.cat([g.to(x.dtype).expand(x.shape[0], -1, *x.shape[2:]), x], dim=1)

    def out_channels(self, channels: int) -> int:
        return 2 * channels

    def affine(self, g: Tensor) -> Affine:
        return Affine(before=g)


def checked_affine(name: str, g: Tensor) -> Affine | None:
    """The affine map of an operator, compared with what it computes; float64.

    Args:
        name: of the operator.
        g: (1, C, 1, 1) implicit tensor.

    Raises:
        ValueError: when the two differ.
    """
    operator = OPERATORS.lookup(name)
    g = g.double()
    affine = operator.affine(g.flatten())
    if affine is None:
        return None
    if g.is_meta:  # there are no values to compare
        return affine
    affine = Affine(*(None if x is None else x.double() for x in affine))
    x = torch.linspace(-2, 2, 4 * g.shape[1], dtype=g.dtype, device=g.device).view(1, -1, 2, 2)
    expected, actual = operator.apply(x, g), apply_affine(affine, x)
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=1e-6, atol=1e-9):
        raise ValueError(
            f"operator {name!r} of implicit knowledge cannot be folded: its affine() is not what "
            "its apply() computes"
        )
    return affine


def apply_affine(affine: Affine, x: Tensor) -> Tensor:
    """[before, scale * x + shift] of a feature (N, C, H, W)."""
    if affine.scale is not None:
        x = x * affine.scale.view(1, -1, 1, 1)
    if affine.shift is not None:
        x = x + affine.shift.view(1, -1, 1, 1)
    if affine.before is not None:
        before = affine.before.to(x.dtype).view(1, -1, 1, 1)
        x = torch.cat([before.expand(x.shape[0], -1, *x.shape[2:]), x], dim=1)
    return x
