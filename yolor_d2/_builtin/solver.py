"""What wraps an optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from .config import CfgNode


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    """The class of optimiser, with gradients clipped before each step if the config enables that.

    SOLVER.CLIP_GRADIENTS applies to each parameter by itself, not to all of them together.

    Raises:
        ValueError: when CLIP_TYPE is unknown.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED:
        return optimizer
    if node.CLIP_TYPE == "value":
        clip, options = clip_grad_value_, (node.CLIP_VALUE,)
    elif node.CLIP_TYPE == "norm":
        clip, options = clip_grad_norm_, (node.CLIP_VALUE, node.NORM_TYPE)
    else:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {node.CLIP_TYPE!r}, expected 'value' or 'norm'"
        )

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                clip(parameter, *options)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})
