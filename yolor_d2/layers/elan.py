"""Efficient layer aggregation (ELAN) of YOLOv7 (arXiv 2207.02696, section 3.1 and figure 2).

x ─┬─ skip (1x1) ────────────────────────────────┐
   └─ entry (1x1) ─┬─────────────────────────────┤
                   └─ 3x3 ─ 3x3 ─┬─ 3x3 ─ 3x3 ─┬─┴─ concat ─ output (1x1)
                                 └─────────────┘
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .blocks import BLOCKS
from .conv import BlockForm, ConvNormAct


class ELAN(nn.Module):
    """A chain of 3x3 convolutions, some of whose maps are joined: newest first, then entry, skip.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden: channels of entry and skip.
        num_convs: convolutions of the chain, 4, 6 or 8 in the published networks.
        chain: channels of each of them; None takes `hidden`.
        every: of the chain's maps every one that is this far from the last is joined: 2, or 1 for
            all of them.
        form: norm and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        num_convs: int,
        *,
        chain: int | None = None,
        every: int = 2,
        form: BlockForm,
    ):
        super().__init__()
        chain = hidden if chain is None else chain
        self.skip = ConvNormAct(in_channels, hidden, 1, form=form)
        self.entry = ConvNormAct(in_channels, hidden, 1, form=form)
        self.chain = nn.ModuleList(
            ConvNormAct(hidden if i == 0 else chain, chain, 3, form=form) for i in range(num_convs)
        )
        self.every = every
        joined = len(range(0, num_convs, every))
        self.output = ConvNormAct(joined * chain + 2 * hidden, out_channels, 1, form=form)

    def forward(self, x: Tensor) -> Tensor:
        skip, entry = self.skip(x), self.entry(x)
        maps: list[Tensor] = []
        latest = entry
        for conv in self.chain:
            latest = conv(latest)
            maps.append(latest)
        return self.output(torch.cat([*maps[:: -self.every], entry, skip], dim=1))


class EELAN(nn.Module):
    """Extended ELAN: the sum of two blocks of the same shape on the same input.

    The paper draws one block of group convolutions whose halves are shuffled and added; this is the
    authors' equal and faster form of it.

    Args:
        first: a block.
        second: another one; auxiliary heads read its output, without the sum.
    """

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first = first
        self.second = second

    def forward_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what an auxiliary head reads, see `networks.PANNeck`."""
        second = self.second(x)
        return self.first(x) + second, second

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_parts(x)[0]


class Shape(NamedTuple):
    """What the kinds of ELAN differ in.

    Attributes:
        narrowing: the width of the block, in widths of its inside, unless the row gives that one.
        chain_part: width of the inside, in widths of the chain's convolutions.
        every: see `ELAN`.
    """

    narrowing: int
    chain_part: int
    every: int

    def concatenated(self, units: int) -> float:
        """See `layers.blocks.BlockTraits`."""
        return len(range(0, units, self.every)) / self.chain_part + 2


# ELAN of the backbone joins every second map, ELAN-H of the neck all maps of a chain half as wide,
# ELAN-T of YOLOv7-tiny all maps.
SHAPES = {"elan": Shape(2, 1, 2), "elan_h": Shape(1, 2, 1), "elan_t": Shape(2, 1, 1)}


def _register(name: str, shape: Shape) -> None:
    """Make a kind of block of a shape, and its extended form under "e_" and its name."""

    def build(
        in_channels: int,
        width: int,
        units: int,
        hidden: int | None = None,
        *,
        transition: bool = False,
        form: BlockForm,
    ) -> ELAN:
        hidden = hidden or width // shape.narrowing
        chain = hidden // shape.chain_part
        return ELAN(in_channels, width, hidden, units, chain=chain, every=shape.every, form=form)

    def build_extended(*args: int, **options: Any) -> EELAN:
        return EELAN(build(*args, **options), build(*args, **options))

    traits: dict[str, Any] = {"has_hidden": True, "concatenated": shape.concatenated}
    BLOCKS.register(name, **traits)(build)
    BLOCKS.register(f"e_{name}", **traits)(build_extended)


for _name, _shape in SHAPES.items():
    _register(_name, _shape)
