"""Words of the configuration that describe implicit knowledge, and the registries behind them.

The modules themselves are in `layers.implicit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .operators import KEY, OPERATORS
from .registry import NONE, OWN_PART, Registry

if TYPE_CHECKING:
    from .implicit import Implicit

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


@register_scope("sizes")
def positions_of_sizes(num_anchors: int, num_classes: int) -> list[int]:
    """tw and th of every anchor."""
    return [a * (5 + num_classes) + i for a in range(num_anchors) for i in (2, 3)]
