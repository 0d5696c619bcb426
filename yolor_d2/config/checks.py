"""Values of a configuration that make no sense, refused before anything computes."""

from __future__ import annotations

import functools

import torch

from ..d2.config import CfgNode
from .node import WORDS

# Keys and the least value that makes sense.
LEAST_VALUES = {
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MAX_PIXELS": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MIN_SIZE_TEST": 1,
    "MODEL.YOLOR.NUM_CLASSES": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.EARLY_STOPPING.PATIENCE": 0,
    "SOLVER.HANG_LIMIT": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.KEEP_LAST": 0,
    "SOLVER.MAX_ITER": 0,
    "SOLVER.MUON.BLOCK": 0,
    "TEST.DETECTIONS_PER_IMAGE": 1,
    "TEST.IMS_PER_BATCH": 1,
}


def check_values(cfg: CfgNode) -> None:
    """Raise a ValueError for a value that would fail somewhere deep, or train nothing."""
    for key, least in LEAST_VALUES.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value != WORDS.get(key) and value < least:
            raise ValueError(f"{key} is {value}, expected at least {least}")
    if not all(x > 0 for x in cfg.MODEL.PIXEL_STD):
        raise ValueError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}, expected numbers above 0")
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, expected 'auto' or one that torch knows, such "
            "as 'cpu', 'cuda' or 'cuda:1'"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but torch finds no GPU: add `MODEL.DEVICE "
            "cpu`, or leave the key out and the device is found"
        )
