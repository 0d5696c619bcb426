"""Implicit knowledge: learned tensors that do not depend on the image (paper section 4).

An implicit module is three choices. Its *place* in the network is the caller's (`networks.neck`,
`networks.head`, `networks.branches`). Its *operator* says how the implicit tensor g meets the
explicit feature x (section 4.2, `layers.operators`), its *representation* what g is made of
(section 4.1):

    operator         result                representation   g
    "add"            x + g                 "vector"         z          (eq. 6)
    "mul"            x * g                 "network"        W z        (eq. 7)
    "concat"         [g, x]                "factorization"  Z^T c      (eq. 8)

A configuration names them in one line of words in any order, "mul" or "add factorization
non_negative"; the representation is "vector" where none is named. Every choice starts next to
neutral, so that a network begins as if it had no implicit knowledge (section 4.3).

`layers.implicit_words` reads these words. Operators, representations and scopes are registered, and
a user's module may register more (docs/extending.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .implicit_words import (
    PER_ANCHOR,
    REPRESENTATIONS,
    ImplicitOptions,
    ImplicitSpec,
    parse_implicit,
    register_representation,
)
from .operators import OPERATORS

# Of W z; each keeps zero at zero.
NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}


class Implicit(nn.Module):
    """An implicit tensor g and its operator; subclasses say what g is made of.

    Attributes:
        extras: words of the configuration that go with a subclass, by what they choose; the words
            of one choice exclude each other.

    Args:
        channels: channels C of the explicit feature that it meets.
        spec: its choices.
        options: what it shares with others.
        positions: the channels that g refines, the others keep the neutral value; None: all.
    """

    extras: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(
        self,
        channels: int,
        *,
        spec: ImplicitSpec,
        options: ImplicitOptions = ImplicitOptions(),
        positions: Sequence[int] | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.operator = spec.operator
        self.operation = OPERATORS.lookup(spec.operator)
        self.neutral = self.operation.neutral
        self.std = options.std
        self.sparsity = options.sparsity
        self.positions = None if positions is None else list(positions)
        if not all(0 <= position < channels for position in self.positions or ()):
            raise ValueError(
                f"a scope of implicit knowledge refines the outputs {self.positions}, but there "
                f"are {channels}, from 0"
            )
        self.learned_channels = channels if positions is None else len(positions)

    @property
    def out_channels(self) -> int:
        return self.operation.out_channels(self.channels)

    def learned(self) -> Tensor:
        """The values of the refined channels, in their order, of any shape."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """What the constraints of this module add to the loss; None if it has none."""
        return None

    def value(self) -> Tensor:
        """(1, C, 1, 1) implicit tensor g as the operator uses it."""
        g = self.learned().reshape(-1)
        if self.positions is not None:
            everywhere = g.new_full((self.channels,), self.neutral)
            g = everywhere.index_copy(0, torch.tensor(self.positions, device=g.device), g)
        return g.view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) explicit feature to (N, `out_channels`, H, W)."""
        return self.operation.apply(x, self.value())

    def extra_repr(self) -> str:
        chosen = "" if self.positions is None else f", positions={self.learned_channels}"
        return f"{self.operator}, channels={self.channels}{chosen}"


@register_representation("vector")
class VectorImplicit(Implicit):
    """g = z (eq. 6), z ~ N(neutral, std)."""

    def __init__(self, channels: int, **choices: Any):
        super().__init__(channels, **choices)
        self.z = nn.Parameter(torch.empty(1, self.learned_channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.z, mean=self.neutral, std=self.std)

    def learned(self) -> Tensor:
        return self.z


@register_representation("network")
class NetworkImplicit(Implicit):
    """g = neutral + f(W z) (eq. 7), f the identity unless a non-linearity is named.

    The paper gives neither bias nor start of W: none, and W ~ N(0, 1 / sqrt(length of z)) with
    z ~ N(0, std), so that W z spreads like a vector z.
    """

    extras: ClassVar = {"non-linearity": tuple(NONLINEARITIES)}

    def __init__(
        self,
        channels: int,
        *,
        spec: ImplicitSpec,
        options: ImplicitOptions = ImplicitOptions(),
        positions: Sequence[int] | None = None,
    ):
        super().__init__(channels, spec=spec, options=options, positions=positions)
        prior = options.prior_factor * self.learned_channels
        self.nonlinearity = next(iter(spec.extras), None)
        self.z = nn.Parameter(torch.empty(prior))
        self.weight = nn.Parameter(torch.empty(self.learned_channels, prior))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.z, std=self.std)
        nn.init.normal_(self.weight, std=1 / math.sqrt(len(self.z)))

    def learned(self) -> Tensor:
        product = self.weight @ self.z
        if self.nonlinearity is not None:
            product = NONLINEARITIES[self.nonlinearity](product)
        return self.neutral + product


@register_representation("factorization")
class FactorizedImplicit(Implicit):
    """g = Z^T c (eq. 8): K prior vectors Z, mixed by K coefficients c.

    Starts with c = 1 / K and Z ~ N(neutral, std sqrt(K)), so that g spreads like a vector z. With
    `non_negative`, the absolute values of Z and c are used: unlike values clamped at zero, they
    always have a gradient.
    """

    extras: ClassVar = {"constraint": ("non_negative",)}

    def __init__(
        self,
        channels: int,
        *,
        spec: ImplicitSpec,
        options: ImplicitOptions = ImplicitOptions(),
        positions: Sequence[int] | None = None,
    ):
        super().__init__(channels, spec=spec, options=options, positions=positions)
        self.non_negative = "non_negative" in spec.extras
        self.z = nn.Parameter(torch.empty(options.prior_factor, self.learned_channels))
        self.c = nn.Parameter(torch.empty(options.prior_factor))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.z, mean=self.neutral, std=self.std * math.sqrt(len(self.c)))
        nn.init.constant_(self.c, 1 / len(self.c))

    def learned(self) -> Tensor:
        if self.non_negative:
            return self.c.abs() @ self.z.abs()
        return self.c @ self.z

    def penalty(self) -> Tensor | None:
        return self.sparsity * self.c.abs().sum() if self.sparsity > 0 else None


class FixedImplicit(nn.Module):
    """An implicit tensor that is learned no more and could not be folded, see `layers.fuse`.

    Args:
        operator: a name of `OPERATORS`.
        value: (1, C, 1, 1).
    """

    g: Tensor

    def __init__(self, operator: str, value: Tensor):
        super().__init__()
        self.operator = operator
        self.operation = OPERATORS.lookup(operator)
        self.register_buffer("g", value.detach().clone())

    def value(self) -> Tensor:
        return self.g

    def forward(self, x: Tensor) -> Tensor:
        return self.operation.apply(x, self.g)

    def extra_repr(self) -> str:
        return f"{self.operator}, channels={self.g.shape[1]}"


class AnchorwiseConv(nn.Conv2d):
    """A 1x1 prediction convolution whose input every anchor aligns for itself (the paper's iFA*).

    The paper says "anchor cluster level" and no more. Here anchor a has an implicit tensor g_a of
    its own, and its outputs are predicted from x * g_a (or x + g_a) with its own rows of the
    weights. No copy of x is made: W (x * g) = (W diag(g)) x, and W (x + g) = W x + W g, so the
    operator must be an affine map.

    Args:
        in_channels: channels C of the feature.
        out_channels: a multiple of `num_anchors`.
        num_anchors: anchors A.
        spec: with an operator that is an affine map and keeps the number of channels.
        options: see `ImplicitOptions`.

    Raises:
        ValueError: when the operator is no such map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_anchors: int,
        spec: ImplicitSpec,
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__(in_channels, out_channels, 1)
        self.num_anchors = num_anchors
        implicit = build_implicit(
            replace(spec, scope=""), num_anchors * in_channels, options=options
        )
        assert isinstance(implicit, Implicit)
        self.implicit = implicit
        with torch.no_grad():
            affine = implicit.operation.affine(implicit.value().flatten())
        if affine is None or affine.before is not None:
            raise ValueError(
                f"operator {spec.operator!r} has no {PER_ANCHOR!r}: it is no affine map of each "
                "channel, see docs/extending.md"
            )

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, C, 1, 1) and bias (O,) of the plain convolution that does the same."""
        assert self.bias is not None
        weight = self.weight.view(self.num_anchors, -1, self.in_channels)  # (A, O / A, C)
        bias = self.bias
        affine = self.implicit.operation.affine(self.implicit.value().flatten())
        assert affine is not None
        by_anchor = (self.num_anchors, 1, self.in_channels)
        if affine.shift is not None:
            bias = bias + (weight * affine.shift.view(by_anchor)).sum(dim=2).flatten()
        if affine.scale is not None:
            weight = weight * affine.scale.view(by_anchor)
        return weight.view_as(self.weight), bias

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, *self.folded())


def build_implicit(
    spec: str | ImplicitSpec,
    channels: int,
    *,
    options: ImplicitOptions = ImplicitOptions(),
    positions: Sequence[int] | None = None,
) -> nn.Module:
    """The implicit module of one place; "none" leaves the place empty.

    Args:
        spec: its choices, as words (see `parse_implicit`) or read already.
        channels: channels C of the explicit feature.
        options: what it shares with others.
        positions: see `Implicit`.

    Raises:
        ValueError: when a word is unknown.
    """
    if isinstance(spec, str):
        spec = parse_implicit(spec)
    if not spec:
        return nn.Identity()
    representation = REPRESENTATIONS.lookup(spec.representation)
    return representation(channels, spec=spec, options=options, positions=positions)


def widened(implicit: nn.Module, channels: int) -> int:
    """Channels behind an implicit module on a feature of so many."""
    return implicit.out_channels if isinstance(implicit, Implicit) else channels


def implicit_penalty(module: nn.Module) -> Tensor | None:
    """Sum of what the constraints on implicit knowledge add to the loss; None without any."""
    terms = [m.penalty() for m in module.modules() if isinstance(m, Implicit)]
    terms = [term for term in terms if term is not None]
    return torch.stack(terms).sum() if terms else None
