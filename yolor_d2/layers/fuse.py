"""Folding what is constant at inference into the convolutions around it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .conv import ConvNormAct
from .implicit import Implicit, ImplicitAdd, ImplicitMul


@torch.no_grad()
def fuse_for_inference(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that gives the same outputs with fewer operations.

    Folded are: batch norm that follows a convolution; the implicit refinement of a head into its
    prediction convolutions; the implicit alignment of the features into the same convolutions,
    where nothing but the head reads the features. Batch norm after a concatenation stays.

    Args:
        module: a network, or a meta-architecture with `backbone` and `head`; not changed.
    """
    fused = copy.deepcopy(module).eval()
    for part in fused.modules():
        if isinstance(part, ConvNormAct) and isinstance(part.norm, nn.BatchNorm2d):
            fold_norm(part)
    heads = [part for part in fused.modules() if has_lists(part, "predict", "refine")]
    necks = [part for part in fused.modules() if has_lists(part, "align")]
    for head in heads:
        for i, (conv, refine) in enumerate(zip(head.predict, head.refine)):
            if isinstance(refine, Implicit):
                fold_output(conv, refine)
                head.refine[i] = nn.Identity()
    alone = getattr(fused, "tasks", None) is None
    if len(heads) == len(necks) == 1 and alone:
        for i, (conv, align) in enumerate(zip(heads[0].predict, necks[0].align)):
            if isinstance(align, Implicit):
                fold_input(conv, align)
                necks[0].align[i] = nn.Identity()
    return fused


def has_lists(module: nn.Module, *names: str) -> bool:
    """Whether a module has module lists of these names."""
    return all(isinstance(getattr(module, name, None), nn.ModuleList) for name in names)


def fold_norm(block: ConvNormAct) -> None:
    """Batch norm into the convolution before it, in place."""
    conv, norm = block.conv, block.norm
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt() * norm.weight.double()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    block.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]


def bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def fold_output(conv: nn.Conv2d, implicit: Implicit) -> None:
    """An implicit module on the outputs of a convolution, in place."""
    z = implicit.value().flatten()
    if isinstance(implicit, ImplicitMul):
        conv.weight.mul_(z.view(-1, 1, 1, 1))
        bias_of(conv).mul_(z)
    elif isinstance(implicit, ImplicitAdd):
        bias_of(conv).add_(z)


def fold_input(conv: nn.Conv2d, implicit: Implicit) -> None:
    """An implicit module on the inputs of a 1x1 convolution, in place."""
    z = implicit.value().flatten()
    if isinstance(implicit, ImplicitMul):
        conv.weight.mul_(z.view(1, -1, 1, 1))
    elif isinstance(implicit, ImplicitAdd):
        bias_of(conv).add_(conv.weight.flatten(1) @ z)
