"""Implicit knowledge: learned tensors that do not depend on the image (paper section 4).

An implicit module is three choices. Its *place* in the network is the caller's (`networks.neck`,
`networks.head`, `networks.tasks`). Its *operator* says how the implicit tensor g meets the explicit
feature x (section 4.2), its *representation* what g is made of (section 4.1):

    operator         result                representation   g
    "add"            x + g                 "vector"         z          (eq. 6)
    "mul"            x * g                 "network"        W z        (eq. 7)
    "concat"         [g, x]                "factorization"  Z^T c      (eq. 8)

A configuration names them in one line of words in any order, "mul" or "add factorization
non_negative"; the representation is "vector" where none is named. Every choice starts next to
neutral, so that a network begins as if it had no implicit knowledge (section 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

NONE = "none"
# What changes nothing under each operator; a concatenated tensor starts near zero.
NEUTRAL = {"add": 0.0, "mul": 1.0, "concat": 0.0}
REPRESENTATIONS = ("vector", "network", "factorization")
# Of W z; each keeps zero at zero.
NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}
SCOPES = ("per_anchor", "sizes")


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
        operator: "none", "add", "mul" or "concat".
        representation: one of `REPRESENTATIONS`.
        nonlinearity: key of `NONLINEARITIES`, applied to W z; None leaves it linear.
        non_negative: keep Z and c at or above zero (the paper's constraint of NMF, section 4.1).
        scope: "" for the whole feature; "per_anchor" for a tensor of its own for each anchor (the
            paper's iFA*); "sizes" for the width and height of each anchor alone (its iPR*).
    """

    operator: str = NONE
    representation: str = "vector"
    nonlinearity: str | None = None
    non_negative: bool = False
    scope: str = ""

    def __bool__(self) -> bool:
        return self.operator != NONE


def parse_implicit(
    words: str, *, operators: Sequence[str] = tuple(NEUTRAL), scopes: Sequence[str] = ()
) -> ImplicitSpec:
    """Read the words that describe one implicit module.

    Args:
        words: such as "none", "mul", "add network tanh", "mul sizes".
        operators: those that the place allows.
        scopes: those that the place allows.

    Raises:
        ValueError: when a word is unknown, not allowed at the place, said twice, or does not go
            with the others; the message lists what is possible.
    """
    allowed = [NONE, *operators]
    vocabulary = [*allowed, *REPRESENTATIONS, *NONLINEARITIES, "non_negative", *scopes]
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
        elif word in NONLINEARITIES:
            choose("nonlinearity", word)
        elif word == "non_negative":
            choose("non_negative", word)
        elif word in scopes:
            choose("scope", word)
        else:
            raise ValueError(
                f"implicit knowledge {words!r}: {word!r} is not possible at this place, expected "
                f"words of {vocabulary}"
            )
    if "operator" not in chosen:
        raise ValueError(
            f"implicit knowledge {words!r} names no operator, expected one of {allowed}"
        )
    if chosen["operator"] == NONE and len(chosen) > 1:
        raise ValueError(f"implicit knowledge {words!r}: 'none' stands alone")
    representation = chosen.get("representation", "vector")
    if "nonlinearity" in chosen and representation != "network":
        raise ValueError(f"implicit knowledge {words!r}: a non-linearity belongs to 'network'")
    if "non_negative" in chosen and representation != "factorization":
        raise ValueError(f"implicit knowledge {words!r}: 'non_negative' belongs to 'factorization'")
    if "scope" in chosen and chosen["operator"] == "concat":
        raise ValueError(f"implicit knowledge {words!r}: 'concat' has no {chosen['scope']!r}")
    return ImplicitSpec(
        operator=chosen["operator"],
        representation=representation,
        nonlinearity=chosen.get("nonlinearity"),
        non_negative="non_negative" in chosen,
        scope=chosen.get("scope", ""),
    )


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

    Args:
        channels: channels C of the explicit feature that it meets.
        spec: its choices.
        options: what it shares with others.
        positions: the channels that g refines, the others keep the neutral value; None: all.
    """

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
        self.neutral = NEUTRAL[spec.operator]
        self.std = options.std
        self.sparsity = options.sparsity
        self.positions = None if positions is None else list(positions)
        self.learned_channels = channels if positions is None else len(positions)

    @property
    def out_channels(self) -> int:
        return 2 * self.channels if self.operator == "concat" else self.channels

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
        return combine(self.operator, x, self.value())

    def extra_repr(self) -> str:
        chosen = "" if self.positions is None else f", positions={self.learned_channels}"
        return f"{self.operator}, channels={self.channels}{chosen}"


def combine(operator: str, x: Tensor, g: Tensor) -> Tensor:
    """Meet an explicit feature (N, C, H, W) with an implicit tensor (1, C, 1, 1)."""
    if operator == "add":
        return x + g
    if operator == "mul":
        return x * g
    # The implicit part comes first, as the authors' code has it.
    return torch.cat([g.to(x.dtype).expand(x.shape[0], -1, *x.shape[2:]), x], dim=1)


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


class NetworkImplicit(Implicit):
    """g = neutral + f(W z) (eq. 7), f the identity unless a non-linearity is named.

    The paper gives neither bias nor start of W: none, and W ~ N(0, 1 / sqrt(length of z)) with
    z ~ N(0, std), so that W z spreads like a vector z.
    """

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
        self.nonlinearity = spec.nonlinearity
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


class FactorizedImplicit(Implicit):
    """g = Z^T c (eq. 8): K prior vectors Z, mixed by K coefficients c.

    Starts with c = 1 / K and Z ~ N(neutral, std sqrt(K)), so that g spreads like a vector z. With
    `non_negative`, the absolute values of Z and c are used: unlike values clamped at zero, they
    always have a gradient.
    """

    def __init__(
        self,
        channels: int,
        *,
        spec: ImplicitSpec,
        options: ImplicitOptions = ImplicitOptions(),
        positions: Sequence[int] | None = None,
    ):
        super().__init__(channels, spec=spec, options=options, positions=positions)
        self.non_negative = spec.non_negative
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
        operator: key of `NEUTRAL`.
        value: (1, C, 1, 1).
    """

    g: Tensor

    def __init__(self, operator: str, value: Tensor):
        super().__init__()
        self.operator = operator
        self.register_buffer("g", value.detach().clone())

    def value(self) -> Tensor:
        return self.g

    def forward(self, x: Tensor) -> Tensor:
        return combine(self.operator, x, self.g)

    def extra_repr(self) -> str:
        return f"{self.operator}, channels={self.g.shape[1]}"


class AnchorwiseConv(nn.Conv2d):
    """A 1x1 prediction convolution whose input every anchor aligns for itself (the paper's iFA*).

    The paper says "anchor cluster level" and no more. Here anchor a has an implicit tensor g_a of
    its own, and its outputs are predicted from x * g_a (or x + g_a) with its own rows of the
    weights. No copy of x is made: W (x * g) = (W diag(g)) x, and W (x + g) = W x + W g.

    Args:
        in_channels: channels C of the feature.
        out_channels: a multiple of `num_anchors`.
        num_anchors: anchors A.
        spec: "add" or "mul".
        options: see `ImplicitOptions`.
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

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, C, 1, 1) and bias (O,) of the plain convolution that does the same."""
        assert self.bias is not None
        weight = self.weight.view(self.num_anchors, -1, self.in_channels)  # (A, O / A, C)
        g = self.implicit.value().view(self.num_anchors, 1, self.in_channels)
        if self.implicit.operator == "mul":
            return (weight * g).view_as(self.weight), self.bias
        return self.weight, self.bias + (weight * g).sum(dim=2).flatten()

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, *self.folded())


CLASSES = {
    "vector": VectorImplicit,
    "network": NetworkImplicit,
    "factorization": FactorizedImplicit,
}


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
    return CLASSES[spec.representation](channels, spec=spec, options=options, positions=positions)


def widened(implicit: nn.Module, channels: int) -> int:
    """Channels behind an implicit module on a feature of so many."""
    return implicit.out_channels if isinstance(implicit, Implicit) else channels


def implicit_penalty(module: nn.Module) -> Tensor | None:
    """Sum of what the constraints on implicit knowledge add to the loss; None without any."""
    terms = [m.penalty() for m in module.modules() if isinstance(m, Implicit)]
    terms = [term for term in terms if term is not None]
    return torch.stack(terms).sum() if terms else None
