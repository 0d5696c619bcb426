"""Kinds of blocks that keep the resolution, for stages of the backbone and levels of the neck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from .conv import BlockForm
from .registry import OWN_PART, Item, Registry

# One block: (width, units), or (width, units, kind, ...) with what else the kind takes.
Block = Sequence[int | str]


class BlockTraits(NamedTuple):
    """What scaling wants to know of a kind of block.

    Attributes:
        has_hidden: whether the argument behind the kind is the width inside the block, which
            MODEL.YOLOR.WIDTH_FACTOR scales like any other.
        concatenated: widths of the concatenation that ends the block, as a multiple of the width
            inside, for so many units; None where it does not depend on them. Compound scaling
            follows it, see `networks.variant.compound_scale`.
    """

    has_hidden: bool = False
    concatenated: Callable[[int], float] | None = None


class BlockRegistry(Registry[Callable[..., nn.Module]]):
    """Kinds of blocks by name.

    A kind is called with channels of the input, width and units, then what else the configuration
    gives it, and `transition` and `form` by keyword; it gives a module of that width. It raises a
    ValueError or TypeError for arguments that do not fit.
    """

    def __init__(self, kind: str, key: str):
        super().__init__(kind, key)
        self.traits: dict[str, BlockTraits] = {}

    def register(
        self,
        name: str,
        *,
        has_hidden: bool = False,
        concatenated: Callable[[int], float] | None = None,
    ) -> Callable[[Item], Item]:
        """Decorator that adds a kind; see `BlockTraits` and `Registry.add`."""
        keep = super().register(name)

        def keep_with_traits(item: Item) -> Item:
            keep(item)
            self.traits[name] = BlockTraits(has_hidden, concatenated)
            return item

        return keep_with_traits

    def traits_of(self, name: str) -> BlockTraits:
        return self.traits.get(name, BlockTraits())


BLOCKS = BlockRegistry("stage", "MODEL.YOLOR.STAGES")
# What stands for a block of two numbers.
DEFAULT_BLOCK = "csp"


def build_block(
    spec: Block, in_channels: int, *, transition: bool = False, form: BlockForm, key: str
) -> tuple[nn.Module, int]:
    """Build one block, which keeps the resolution.

    Args:
        spec: (width, units) for a CSP block of the backbone; (width, units, kind, ...) for another
            kind, see `BLOCKS`.
        in_channels: channels that reach the block.
        transition: see `layers.CSPStage`.
        form: norm and activation.
        key: what the configuration calls the block, for messages.

    Returns:
        The module and its width.

    Raises:
        ValueError: when the kind is unknown or its arguments do not fit.
    """
    reason = ""
    match list(spec):
        case [int(width), int(units), *rest] if not rest or rest[0] in BLOCKS:
            kind, *args = rest or [DEFAULT_BLOCK]
            try:
                build = BLOCKS[str(kind)]
                block = build(in_channels, width, units, *args, transition=transition, form=form)
                return block, width
            except (TypeError, ValueError) as error:
                reason = f" ({error})"
        case _:
            pass
    raise ValueError(
        f"{key} is {list(spec)}, expected [width, units] or [width, units, kind, ...] with a kind "
        f"of {sorted(BLOCKS)}{reason}; {OWN_PART}"
    )
