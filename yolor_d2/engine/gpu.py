"""What suits a GPU, by one key."""

from __future__ import annotations

import logging

import torch

from ..d2.config import CfgNode

logger = logging.getLogger(__name__)


def suit_gpu(cfg: CfgNode) -> CfgNode:
    """The configuration with the settings that SOLVER.SUIT_GPU implies, which are logged.

    Channels last and fused operations; bfloat16 where the card has it and SOLVER.AMP is off, which
    needs no scaled gradients. Without a GPU nothing changes.
    """
    if not cfg.SOLVER.SUIT_GPU:
        return cfg
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        logger.info("SOLVER.SUIT_GPU changes nothing: MODEL.DEVICE is %r", cfg.MODEL.DEVICE)
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CHANNELS_LAST = True
    cfg.SOLVER.FUSED = cfg.SOLVER.OPTIMIZER == "SGD"
    if not cfg.SOLVER.AMP.ENABLED and torch.cuda.is_bf16_supported(including_emulation=False):
        cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "bfloat16"
    cfg.freeze()
    logger.info(
        "SOLVER.SUIT_GPU: channels last, %s, %s optimiser and average",
        cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "float32",
        "fused" if cfg.SOLVER.FUSED else "plain",
    )
    return cfg
