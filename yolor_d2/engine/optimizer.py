"""Parameter groups and optimiser of the paper's recipe."""

from __future__ import annotations

import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.solver import maybe_add_gradient_clipping
from ..layers import Implicit

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, norm_decay: float = 0.0, bias_decay: float = 0.0
) -> list[dict]:
    """Three groups in the reference's order, told apart by their key "kind".

    Args:
        model: parameters that need no gradient are left out.
        weight_decay: decay of "weight", all other parameters.
        norm_decay: decay of "norm", the scales of norms and all implicit knowledge.
        bias_decay: decay of "bias", those of convolutions and norms.
    """
    members: dict[str, list[nn.Parameter]] = {"norm": [], "weight": [], "bias": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                members["bias"].append(parameter)
            elif isinstance(module, (*NORMS, Implicit)):
                members["norm"].append(parameter)
            else:
                members["weight"].append(parameter)
    decays = {"norm": norm_decay, "weight": weight_decay, "bias": bias_decay}
    return [
        {"kind": kind, "params": params, "weight_decay": decays[kind]}
        for kind, params in members.items()
        if params
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum over `parameter_groups`; SOLVER.CLIP_GRADIENTS is respected."""
    groups = parameter_groups(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        norm_decay=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_decay=cfg.SOLVER.WEIGHT_DECAY_BIAS or 0.0,
    )
    sgd = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    return sgd(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
    )
