"""What the network of a configuration costs, without computing anything."""

from __future__ import annotations

import torch

from ..d2.config import CfgNode
from ..networks import build_network
from ..networks.complexity import Complexity, measure_complexity
from .backbone import variant_from_config


def config_complexity(cfg: CfgNode, size: int) -> dict[str, Complexity]:
    """See `networks.complexity.measure_complexity`; for one square image with sides of `size`, at
    inference: auxiliary heads have parameters, but do nothing."""
    channels = len(cfg.MODEL.PIXEL_MEAN)
    with torch.device("meta"):
        network = build_network(
            variant_from_config(cfg), cfg.MODEL.YOLOR.NUM_CLASSES, in_channels=channels
        ).eval()
        image = torch.empty(1, channels, size, size)
    return measure_complexity(network, image)
