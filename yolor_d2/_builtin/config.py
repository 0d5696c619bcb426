"""Configuration: fvcore's node, the default values, and construction from a configuration."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from importlib import resources
from typing import Any

import yaml
from fvcore.common.config import CfgNode as BaseCfgNode

# The only layout of configuration files that is known here.
VERSION = 2


class CfgNode(BaseCfgNode):
    """fvcore's node, which also checks the version of a file."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", VERSION)
        if version != VERSION:
            raise ValueError(
                f"{cfg_filename}: VERSION is {version!r}, but the built-in runtime reads files of "
                f"version {VERSION} only; Detectron2 converts others"
            )
        self.merge_from_other_cfg(loaded)


def restore_tuples(value: Any) -> Any:
    """YAML has no tuples: in the file of defaults they are strings that start with "("."""
    if isinstance(value, dict):
        return {key: restore_tuples(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("("):
        return ast.literal_eval(value)
    return value


@functools.cache
def _defaults() -> CfgNode:
    text = resources.files(__package__).joinpath("defaults.yaml").read_text(encoding="utf-8")
    return CfgNode(restore_tuples(yaml.safe_load(text)))


def get_cfg() -> CfgNode:
    """A copy of the default configuration."""
    return _defaults().clone()


def configurable(init: Callable) -> Callable:
    """Let `__init__` be called with a configuration too.

    `Class(cfg, ...)` calls `Class.from_config(cfg, ...)`, which returns the arguments of `__init__`
    as a dict. Keywords that `from_config` does not take go to `__init__` unchanged.
    """

    @functools.wraps(init)
    def construct(self, *args: Any, **kwargs: Any) -> None:
        first = args[0] if args else kwargs.get("cfg")
        if isinstance(first, BaseCfgNode):
            kwargs = explicit_arguments(type(self).from_config, args, kwargs)
            args = ()
        init(self, *args, **kwargs)

    return construct


def explicit_arguments(from_config: Callable, args: tuple, kwargs: dict) -> dict:
    """The arguments of `__init__` that belong to a call with a configuration."""
    known = inspect.signature(from_config).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    direct = {} if takes_all else {k: v for k, v in kwargs.items() if k not in known}
    rest = {k: v for k, v in kwargs.items() if k not in direct}
    return {**from_config(*args, **rest), **direct}
