"""Parameter groups and optimiser: those of the paper's recipe, or Muon."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.solver import maybe_add_gradient_clipping
from ..data.accumulation import Accumulation
from ..layers import Implicit
from .muon import Muon

logger = logging.getLogger(__name__)

OPTIMIZERS = {"SGD": torch.optim.SGD, "Muon": Muon}
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


def nominal_fraction(cfg: CfgNode) -> float:
    """Images of an iteration over SOLVER.NOMINAL_BATCH, for which decay is meant; 1 if that is off.

    The gradient of an iteration grows with its images, and decay with it.
    """
    if cfg.SOLVER.NOMINAL_BATCH == 0:
        return 1.0
    images = Accumulation.from_config(cfg).full * cfg.SOLVER.IMS_PER_BATCH
    return images / cfg.SOLVER.NOMINAL_BATCH


def split_hidden(groups: list[dict], model: nn.Module) -> list[dict]:
    """Divide the group "weight" into "hidden" and the rest, which stays "weight".

    Hidden are the weights of layers without a bias: a norm follows them, which leaves only the
    direction of a weight to be learnt. The predictions, which have a bias, are not among them.

    Args:
        groups: see `parameter_groups`.
        model: what the groups were made from.

    Returns:
        The groups, "hidden" last; without it if the model has no such layer.
    """
    hidden = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    }
    split, chosen = [], []
    for group in groups:
        if group["kind"] == "weight":
            chosen = [p for p in group["params"] if id(p) in hidden]
            group = {**group, "params": [p for p in group["params"] if id(p) not in hidden]}
        if group["params"]:
            split.append(group)
    return split + ([{"kind": "hidden", "params": chosen}] if chosen else [])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that SOLVER.OPTIMIZER names; SOLVER.CLIP_GRADIENTS is respected.

    "SGD" is the paper's, with Nesterov momentum over `parameter_groups`. "Muon" is the same but for
    the hidden layers, see `split_hidden` and `muon.Muon`.

    Raises:
        ValueError: when SOLVER.OPTIMIZER is unknown, or SOLVER.FUSED does not fit it.
    """
    images = Accumulation.from_config(cfg).full * cfg.SOLVER.IMS_PER_BATCH
    if cfg.SOLVER.REFERENCE_BATCH not in (0, images):
        logger.warning(
            "Learning rates are meant for %d images an iteration (SOLVER.REFERENCE_BATCH), but it "
            "has %d: yolor_d2.engine.rates.scale_rates was not called",
            *(cfg.SOLVER.REFERENCE_BATCH, images),
        )
    fraction = nominal_fraction(cfg)
    groups = parameter_groups(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY * fraction,
        norm_decay=cfg.SOLVER.WEIGHT_DECAY_NORM * fraction,
        bias_decay=(cfg.SOLVER.WEIGHT_DECAY_BIAS or 0.0) * fraction,
    )
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}, expected one of {sorted(OPTIMIZERS)}")
    if name == "Muon":
        groups = split_hidden(groups, model)
        for group in groups:
            if group["kind"] == "hidden":
                group["orthogonal"] = True
                group["lr"] = cfg.SOLVER.MUON.BASE_LR
                group["weight_decay"] = cfg.SOLVER.MUON.WEIGHT_DECAY
                group["block"] = cfg.SOLVER.MUON.BLOCK
    optimizer = maybe_add_gradient_clipping(cfg, OPTIMIZERS[name])
    if cfg.SOLVER.FUSED and name != "SGD":
        raise ValueError(f"SOLVER.FUSED is True, but there is no fused {name}")
    # On the CPU the fused SGD gives the same bits in a tenth of the time.
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    fused = cfg.SOLVER.FUSED or (name == "SGD" and on_cpu)
    return optimizer(
        groups,
        fused=fused or None,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
    )
