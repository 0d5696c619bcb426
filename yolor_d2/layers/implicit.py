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

Operators, representations and scopes are registered, and a user's module may register more
(docs/extending.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from .operators import KEY, OPERATORS
from .registry import NONE, OWN_PART, Registry

# Of W z; each keeps zero at zero.
NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}

# (number of anchors A, classes K) to the outputs of a head, of A * (5 + K), that are refined.
Scope = Callable[[int, int], Sequence[int]]

REPRESENTATIONS: Registry[type[Implicit]] = Registry(
    "representation of implicit knowledge", KEY, apart_from=(OPERATORS,)
)
# Of MODEL.YOLOR.IMPLICIT.PREDICTION_REFINEMENT.
SCOPES: Registry[Scope] = Registry(
    "scope of implicit knowledge", KEY, apart_from=(OPERATORS, REPRESENTATIONS)
)
OPERATORS.apart_from = (REPRESENTATIONS, SCOPES)
REPRESENTATIONS.apart_from = (OPERATORS, SCOPES)
register_representation = REPRESENTATIONS.register
register_scope = SCOPES.register

# Scope of the head's inputs, see `AnchorwiseConv`.
PER_ANCHOR = "per_anchor"


@dataclass(frozen=True)
class ImplicitOptions:
    """What all implicit modules of a network share.

    Attributes:
        std: spread of the initial values; the paper leaves the number to the code, which has 0.02.
        prior_factor: size of the prior of "network" and "factorization" in units of the explicit
            channels C: length of z is prior_factor * C, Z has prior_factor vectors of length C. The
            paper takes twice the explicit dimension (section 5.6).
        sparsity: weight in the loss of the L1 norm of each c (the paper names a sparse constraint
            on c without a form, section 4.1); 0 is off.
    """

    std: float = 0.02
    prior_factor: int = 2
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("std", self.std, 0),
            ("prior_factor", self.prior_factor, 1),
            ("sparsity", self.sparsity, 0),
        ):
            if not least <= value < math.inf:
                raise ValueError(
                    f"{name} of implicit knowledge (MODEL.YOLOR.IMPLICIT.{name.upper()}) is "
                    f"{value}, expected at least {least}"
                )


@dataclass(frozen=True)
class ImplicitSpec:
    """The words of one place, see `parse_implicit`.

    Attributes:
        operator: "none" or a name of `OPERATORS`.
        representation: a name of `REPRESENTATIONS`.
        extras: words of the representation, see `Implicit.extras`.
        scope: "" for the whole feature; "per_anchor" for a tensor of its own for each anchor (the
            paper's iFA*); a name of `SCOPES`, such as "sizes" for the width and height of each
            anchor alone (its iPR*).
    """

    operator: str = NONE
    representation: str = "vector"
    extras: tuple[str, ...] = ()
    scope: str = ""

    def __bool__(self) -> bool:
        return self.operator != NONE


def parse_implicit(
    words: str, *, may_widen: bool = True, scopes: Sequence[str] = ()
) -> ImplicitSpec:
    """Read the words that describe one implicit module.

    Args:
        words: such as "none", "mul", "add network tanh", "mul sizes".
        may_widen: whether the place allows operators that change the number of channels.
        scopes: those that the place allows.

    Raises:
        ValueError: when a word is unknown, not allowed at the place, said twice, or does not go
            with the others; the message lists what is possible.
    """
    widening = [name for name in OPERATORS if widens(name)]
    allowed = [NONE, *(name for name in OPERATORS if may_widen or name not in widening)]
    # Which representation a word belongs to, and with which others it excludes itself.
    owners = {
        word: (name, group)
        for name, representation in REPRESENTATIONS.items()
        for group, members in representation.extras.items()
        for word in members
    }
    vocabulary = [*allowed, *REPRESENTATIONS, *owners, *scopes]
    chosen: dict[str, str] = {}

    def choose(what: str, word: str) -> None:
        if what in chosen:
            raise ValueError(f"implicit knowledge {words!r} has two of {what}")
        chosen[what] = word

    for word in words.split():
        if word in allowed:
            choose("operator", word)
        elif word in REPRESENTATIONS:
            choose("representation", word)
        elif word in scopes:
            choose("scope", word)
        elif word in owners:
            choose(owners[word][1], word)
        else:
            raise ValueError(
                f"implicit knowledge {words!r}: {word!r} is not possible at this place, expected "
                f"words of {vocabulary}; {OWN_PART}"
            )
    if "operator" not in chosen:
        raise ValueError(
            f"implicit knowledge {words!r} names no operator, expected one of {allowed}"
        )
    if chosen["operator"] == NONE and len(chosen) > 1:
        raise ValueError(f"implicit knowledge {words!r}: 'none' stands alone")
    representation = chosen.get("representation", "vector")
    extras = tuple(word for word in chosen.values() if word in owners)
    for word in extras:
        if word not in {
            w for group in REPRESENTATIONS[representation].extras.values() for w in group
        }:
            raise ValueError(
                f"implicit knowledge {words!r}: {word!r} belongs to {owners[word][0]!r}"
            )
    if "scope" in chosen and chosen["operator"] in widening:
        raise ValueError(
            f"implicit knowledge {words!r}: {chosen['operator']!r} has no {chosen['scope']!r}"
        )
    return ImplicitSpec(
        operator=chosen["operator"],
        representation=representation,
        extras=extras,
        scope=chosen.get("scope", ""),
    )


def widens(operator: str) -> bool:
    """Whether the result of an operator has another number of channels than the feature."""
    return OPERATORS[operator].out_channels(8) != 8


def split_levels(words: str, num_levels: int) -> list[str]:
    """One description a level, fine to coarse: "add" for all, or as many as levels with commas.

    Raises:
        ValueError: when there are more than one, but not one for each level.
    """
    levels = [level.strip() for level in words.split(",")]
    if len(levels) == 1:
        return levels * num_levels
    if len(levels) != num_levels:
        raise ValueError(
            f"implicit knowledge {words!r} is for {len(levels)} levels, expected one description, "
            f"or {num_levels} with commas between them"
        )
    return levels


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

    def __init__(self, channels: int, **choices):
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


@register_scope("sizes")
def positions_of_sizes(num_anchors: int, num_classes: int) -> list[int]:
    """tw and th of every anchor."""
    return [a * (5 + num_classes) + i for a in range(num_anchors) for i in (2, 3)]


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
