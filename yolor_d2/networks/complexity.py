"""Parameters and floating-point operations of a network, counted the way the paper counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers import ConvNormAct


@dataclass(frozen=True)
class Complexity:
    """Cost of a module for one image.

    Attributes:
        parameters: learnable scalars; running statistics do not count.
        fused_parameters: the same once every norm that follows a convolution is merged into it, as
            some rows of the paper's tables count.
        macs: multiply-accumulate operations of the convolutions.
        flops: the paper's figure: 2 * (macs + bias additions + 2 * outputs of batch norms).
            Activations, pooling, resizing, sums and implicit knowledge count nothing.
    """

    parameters: int
    fused_parameters: int
    macs: int
    flops: int


def count_parameters(module: nn.Module) -> int:
    """Learnable scalars of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_fused_parameters(module: nn.Module) -> int:
    """Learnable scalars once convolutions have a bias in place of their norm."""
    # Of the norm's scale and shift, one number per channel is left: the bias.
    norms = [part.norm for part in module.modules() if isinstance(part, ConvNormAct)]
    return count_parameters(module) - sum(norm.num_features for norm in norms)


def measure_complexity(module: nn.Module, *inputs: Tensor | Sequence) -> dict[str, Complexity]:
    """Cost of a module and of its direct children for one forward pass.

    Args:
        module: a module on the "meta" device costs no computation.
        inputs: what it is called with, for one image; for a network the image, (1, C, H, W).

    Returns:
        By name of the child, and "total".
    """
    macs: dict[nn.Module, int] = {}
    extra: dict[nn.Module, int] = {}

    def count(layer: nn.Module, _: tuple, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            per_output = layer.weight[0].numel()
            macs[layer] = macs.get(layer, 0) + output.numel() * per_output
            bias = output.numel() if layer.bias is not None else 0
            extra[layer] = extra.get(layer, 0) + bias
        elif isinstance(layer, nn.BatchNorm2d):
            extra[layer] = extra.get(layer, 0) + 2 * output.numel()

    handles = [layer.register_forward_hook(count) for layer in module.modules()]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()

    def total(part: nn.Module) -> Complexity:
        part_macs = sum(macs.get(layer, 0) for layer in part.modules())
        part_extra = sum(extra.get(layer, 0) for layer in part.modules())
        return Complexity(
            parameters=count_parameters(part),
            fused_parameters=count_fused_parameters(part),
            macs=part_macs,
            flops=2 * (part_macs + part_extra),
        )

    return {**{name: total(part) for name, part in module.named_children()}, "total": total(module)}
