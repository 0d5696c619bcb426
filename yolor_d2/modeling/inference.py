"""The model as evaluation and predictors compute it (MODEL.INFERENCE)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..d2.config import CfgNode
from ..layers.fuse import fuse_for_inference
from .meta_arch import YOLOR
from .tta import TestTimeAugmentation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def changes_model(cfg: CfgNode) -> bool:
    """Whether the settings ask for anything but the plain model."""
    node = cfg.MODEL.INFERENCE
    optimizes = node.OPTIMIZE and (node.FUSE or node.CHANNELS_LAST)
    return optimizes or node.COMPILE or node.DTYPE != "float32"


def prepare_for_inference(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """A model in evaluation mode as MODEL.INFERENCE and TEST.AUG want it.

    The given model is never changed: what changes weights works on a copy, so that training goes on
    as if there had been no evaluation. Anything but a `YOLOR` is returned unchanged.

    Args:
        model: weights already loaded; may be wrapped for several processes.
        cfg: the configuration.

    Raises:
        ValueError: when MODEL.INFERENCE.DTYPE is unknown, or float16 on a CPU.
    """
    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    node = cfg.MODEL.INFERENCE
    if node.DTYPE not in DTYPES:
        raise ValueError(f"MODEL.INFERENCE.DTYPE is {node.DTYPE!r}, expected one of {list(DTYPES)}")
    if not isinstance(bare, YOLOR):
        return model
    if node.DTYPE == "float16" and bare.device.type == "cpu":
        raise ValueError("MODEL.INFERENCE.DTYPE float16 needs a GPU; the CPU has bfloat16")
    if changes_model(cfg):
        bare = convert(bare, cfg)
    elif not cfg.TEST.AUG.ENABLED:
        return model
    if cfg.TEST.AUG.ENABLED:
        return TestTimeAugmentation.from_config(cfg, bare)
    return bare


@torch.no_grad()
def convert(model: YOLOR, cfg: CfgNode) -> YOLOR:
    """A changed copy in evaluation mode, see `prepare_for_inference`."""
    node = cfg.MODEL.INFERENCE
    model = fuse_for_inference(model) if node.OPTIMIZE and node.FUSE else copy.deepcopy(model)
    model.eval()
    model.compute_dtype = DTYPES[node.DTYPE]
    parts = (model.backbone, model.head, model.tasks)
    for part in parts:
        part.to(model.compute_dtype)
    if node.OPTIMIZE and node.CHANNELS_LAST:
        model.memory_format = torch.channels_last
        model.to(memory_format=torch.channels_last)
    if node.COMPILE:
        for part in parts:
            part.compile()
    return model
