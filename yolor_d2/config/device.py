"""The device of a configuration, MODEL.DEVICE."""

from __future__ import annotations

import torch

from ..d2.config import CfgNode


def find_device() -> str:
    """ "cuda" where torch finds such a GPU, else "cpu"; other devices are used if asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def replace_auto(cfg: CfgNode) -> None:
    """Replace MODEL.DEVICE "auto", the default in words, as nothing that computes knows it."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = find_device()


def describe_device(cfg: CfgNode) -> str:
    """One line for the log: the device, and where it comes from."""
    device, available = cfg.MODEL.DEVICE, find_device()
    if torch.device(device).type == "cuda":
        index = torch.device(device).index
        return f"Device: {device} ({torch.cuda.get_device_name(index)})"
    if device == available:
        return f"Device: {device}, as torch finds no GPU of CUDA"
    unused = ", although torch finds a GPU" if available == "cuda" else ""
    return f"Device: {device} (MODEL.DEVICE){unused}"
