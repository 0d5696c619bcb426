"""Numbers of a darknet file as tensors with names."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ...layers import ConvNormAct
from .cfg_scheme import cfg_walk
from .parts import Parts


def split_darknet(values: Tensor, parts: Parts) -> dict[str, Tensor]:
    """Cut the row of numbers of a darknet file into tensors named as in the cfg scheme.

    Each convolution of the cfg file has, in its order: with a norm its shift, scale, running mean
    and variance, else its bias; then the weights. Implicit layers are not part of the files that
    the authors' PyTorch code writes. The number of classes follows from the number of values.

    Args:
        values: (V,) float32, everything behind the file's header.
        parts: the network that the file is for.

    Raises:
        ValueError: when this network has no cfg file.
        ValueError: when the file has more or fewer numbers than the network's convolutions.
    """
    walk = cfg_walk(parts.backbone, parts.neck, parts.head)
    layers = [
        (f"module_list.{number}", step[1])
        for number, step in enumerate(walk)
        if step is not None and isinstance(step[1], (ConvNormAct, nn.Conv2d))
    ]
    # Every output of the head takes a bias and a kernel; all other sizes are those of the network.
    per_output = sum(conv.in_channels + 1 for _, conv in layers if isinstance(conv, nn.Conv2d))
    others = sum(
        conv.conv.weight.numel() + 4 * conv.norm.num_features
        for _, conv in layers
        if isinstance(conv, ConvNormAct)
    )
    outputs, rest = divmod(len(values) - others, per_output)
    num_classes = outputs // parts.head.num_anchors - 5
    if rest or outputs % parts.head.num_anchors or num_classes < 1:
        raise ValueError(
            f"it has {len(values):,} numbers; expected {others:,} and {per_output:,} for each of "
            f"the {parts.head.num_anchors} * (5 + classes) outputs"
        )

    tensors: dict[str, Tensor] = {}
    position = 0

    def take(name: str, *shape: int) -> None:
        nonlocal position
        end = position + math.prod(shape)
        tensors[name] = values[position:end].reshape(shape).clone()
        position = end

    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            take(f"{name}.Conv2d.bias", outputs)
            take(f"{name}.Conv2d.weight", outputs, *layer.weight.shape[1:])
            continue
        for field_name in ("bias", "weight", "running_mean", "running_var"):
            take(f"{name}.BatchNorm2d.{field_name}", layer.norm.num_features)
        take(f"{name}.Conv2d.weight", *layer.conv.weight.shape)
    return tensors
