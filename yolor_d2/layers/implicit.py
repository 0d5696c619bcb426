"""Implicit knowledge: learned tensors that do not depend on the image (paper section 4).

An implicit module has a *place* (where in the network it stands: the caller decides, see
`networks.neck` and `networks.head`) and an *operator* (how it meets the explicit feature). Both
operators start next to neutral, so that a network begins as if it had no implicit knowledge
(section 4.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Implicit(nn.Module):
    """A vector representation z (paper eq. 6), one value per channel, z ~ N(neutral, std).

    Args:
        channels: channels C of the explicit feature that it meets.
        std: spread of the initial values.

    Attributes:
        neutral: the value that changes nothing under the operator of the subclass.
    """

    neutral: float

    def __init__(self, channels: int, *, std: float = 0.02):
        super().__init__()
        self.std = std
        self.z = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.z, mean=self.neutral, std=self.std)

    def value(self) -> Tensor:
        """(1, C, 1, 1) implicit tensor as the operator uses it."""
        return self.z

    def extra_repr(self) -> str:
        return f"channels={self.z.shape[1]}"


class ImplicitAdd(Implicit):
    """x + z: shifts the feature space (paper section 3.2, kernel space alignment)."""

    neutral = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value()


class ImplicitMul(Implicit):
    """x * z: scales the feature space."""

    neutral = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value()


OPERATORS: dict[str, type[Implicit]] = {"add": ImplicitAdd, "mul": ImplicitMul}


def build_implicit(operator: str, channels: int) -> nn.Module:
    """The implicit module of one place; "none" leaves the place empty.

    Raises:
        ValueError: when the operator is unknown.
    """
    if operator == "none":
        return nn.Identity()
    if operator not in OPERATORS:
        raise ValueError(
            f"implicit operator is {operator!r}, expected one of {['none', *sorted(OPERATORS)]}"
        )
    return OPERATORS[operator](channels)
