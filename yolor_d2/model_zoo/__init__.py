"""Configurations that come with the package, by their path below `configs/`, and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config_paths import config_root, find_config, get_config_file, list_configs, zoo_name

if TYPE_CHECKING:
    from torch import nn

    from ..d2.config import CfgNode


def get_config(name: str) -> CfgNode:
    """The configuration of that name, merged with its bases and all defaults."""
    from ..config import get_yolor_cfg

    cfg = get_yolor_cfg()
    cfg.merge_from_file(get_config_file(name), allow_unsafe=False)
    return cfg


def get(name: str, *, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of that configuration, in training mode.

    Args:
        name: see `get_config_file`.
        trained: load MODEL.WEIGHTS of the configuration; otherwise the weights are random.
        device: overrides MODEL.DEVICE.

    Raises:
        ValueError: when trained weights are requested and the configuration names none.
    """
    from ..checkpoint import YOLORCheckpointer
    from ..d2.modeling import build_model

    cfg = get_config(name)
    if device is not None:
        cfg.MODEL.DEVICE = device
    if trained and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            f"{name!r} names no trained weights (MODEL.WEIGHTS): none have been published with "
            "this project; yolor-d2 convert reads those of the authors"
        )
    model = build_model(cfg)
    if trained:
        YOLORCheckpointer(model, strict=True).load(cfg.MODEL.WEIGHTS)
    return model


__all__ = [
    "config_root",
    "find_config",
    "get",
    "get_config",
    "get_config_file",
    "list_configs",
    "zoo_name",
]
