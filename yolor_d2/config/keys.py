"""All keys of a configuration: those of Detectron2 and those that YOLOR adds."""

from __future__ import annotations

from collections.abc import Iterator

from ..d2.config import CfgNode, get_cfg
from .network_keys import add_network_keys
from .node import ProjectNode
from .run_keys import add_run_keys


def add_yolor_config(cfg: CfgNode) -> None:
    """Add the keys of this project, with the defaults of the paper's training from scratch.

    The node of Detectron2 becomes a `ProjectNode`, so that names of the model zoo are bases and
    whole numbers are numbers in anybody's script.
    """
    if type(cfg) is CfgNode:  # a class of somebody's own stays
        object.__setattr__(cfg, "__class__", ProjectNode)  # a node takes values alone
    add_network_keys(cfg)
    add_run_keys(cfg)


def get_yolor_cfg() -> CfgNode:
    """Detectron2's default configuration with the keys of this project."""
    cfg = get_cfg()
    add_yolor_config(cfg)
    return cfg


def list_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration with its full name."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from list_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
