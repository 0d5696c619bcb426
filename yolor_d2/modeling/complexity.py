"""What the network of a configuration costs, without computing anything."""

from __future__ import annotations

import torch

from ..d2.config import CfgNode
from ..layers.fuse import fuse_for_inference
from ..networks import build_network
from ..networks.complexity import Complexity, measure_complexity
from .backbone import variant_from_config


def config_complexity(cfg: CfgNode, size: int, *, folded: bool = False) -> dict[str, Complexity]:
    """See `networks.complexity.measure_complexity`.

    Args:
        cfg: describes a network.
        size: side of the square image.
        folded: measure what `layers.fuse.fuse_for_inference` makes of it, what inference computes;
            otherwise what is trained, auxiliary heads included.
    """
    channels = len(cfg.MODEL.PIXEL_MEAN)
    with torch.device("meta"):
        network = build_network(
            variant_from_config(cfg), cfg.MODEL.YOLOR.NUM_CLASSES, in_channels=channels
        )
        image = torch.empty(1, channels, size, size)
        if folded:
            network = fuse_for_inference(network)
    return measure_complexity(network, image)
