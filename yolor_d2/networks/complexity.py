"""Parameters and floating-point operations of a network, counted the way the paper counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import ConvNormAct, RepConv


@dataclass(frozen=True)
class Complexity:
    """Cost of a module for one image.

    Attributes:
        parameters: learnable scalars; running statistics do not count.
        fused_parameters: the same once every norm that follows a convolution is merged into it, as
            some rows of the paper's tables count.
        macs: multiply-accumulate operations of the convolutions.
        flops: the paper's count: 2 * (macs + bias additions + 2 * outputs of batch norms).
            Activations, pooling, resizing, sums and implicit knowledge count nothing.
        fused_flops: the count of YOLOv7's and YOLOv5's tables: the same once norms that follow a
            convolution are merged into it, and the branches of `layers.RepConv` into one.
    """

    parameters: int
    fused_parameters: int
    macs: int
    flops: int
    fused_flops: int


def count_parameters(module: nn.Module) -> int:
    """Learnable scalars of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_fused_parameters(module: nn.Module) -> int:
    """Learnable scalars once convolutions have a bias in place of their norm."""
    saved = 0
    for part in module.modules():
        if isinstance(part, ConvNormAct) and isinstance(part.norm, nn.BatchNorm2d):
            # Of the norm's scale and shift, one number per channel is left: the bias.
            saved += part.norm.num_features
        elif isinstance(part, RepConv):
            conv = part.dense[0]
            assert isinstance(conv, nn.Conv2d)
            saved += count_parameters(part) - conv.weight.numel() - conv.out_channels
    return count_parameters(module) - saved


def measure_complexity(
    module: nn.Module, *inputs: Tensor | Sequence[Tensor]
) -> dict[str, Complexity]:
    """Cost of a module and of its direct children for one forward pass.

    Args:
        module: a module on the "meta" device costs no computation. Its running statistics stay.
        inputs: what it is called with, for one image; for a network the image, (1, C, H, W).

    Returns:
        By name of the child, and "total".
    """
    macs: Counter[nn.Module] = Counter()
    biases: Counter[nn.Module] = Counter()  # additions of biases
    norms: Counter[nn.Module] = Counter()  # outputs of batch norms

    def count(layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            macs[layer] += output.numel() * layer.weight[0].numel()
            biases[layer] += output.numel() if layer.bias is not None else 0
        elif isinstance(layer, nn.BatchNorm2d):
            norms[layer] += output.numel()

    layers = list(module.modules())
    handles = [layer.register_forward_hook(count) for layer in layers]
    # Their outputs have the shape of their inputs, and computing them on the "meta" device is most
    # of the time of a pass.
    batch_norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for layer in batch_norms:
        vars(layer)["forward"] = _unchanged
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for layer in batch_norms:
            del vars(layer)["forward"]
        for handle in handles:
            handle.remove()

    # Branches that go into the 3x3 convolution beside them.
    merged = {
        layer
        for part in module.modules()
        if isinstance(part, RepConv)
        for layer in (*part.pointwise, part.identity)
    }
    # Norms that go into the convolution before them and leave a bias behind; those behind a
    # concatenation stay.
    absorbed = {
        part.norm if isinstance(part, ConvNormAct) else part.dense[1]
        for part in module.modules()
        if isinstance(part, (ConvNormAct, RepConv))
    }

    def total(part: nn.Module) -> Complexity:
        layers = list(part.modules())
        part_macs, part_biases, part_norms = (
            sum(counter[layer] for layer in layers) for counter in (macs, biases, norms)
        )
        fused = sum(
            macs[layer] + biases[layer] + (1 if layer in absorbed else 2) * norms[layer]
            for layer in layers
            if layer not in merged
        )
        return Complexity(
            parameters=count_parameters(part),
            fused_parameters=count_fused_parameters(part),
            macs=part_macs,
            flops=2 * (part_macs + part_biases + 2 * part_norms),
            fused_flops=2 * fused,
        )

    return {**{name: total(part) for name, part in module.named_children()}, "total": total(module)}


def _unchanged(features: Tensor) -> Tensor:
    return features
