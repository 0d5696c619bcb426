"""Configuration."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.config import CfgNode, configurable, get_cfg
else:
    from .._builtin.config import CfgNode, configurable, get_cfg

__all__ = ["CfgNode", "configurable", "get_cfg"]
