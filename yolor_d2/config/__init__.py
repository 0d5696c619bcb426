"""The configuration: keys that YOLOR adds to Detectron2's, and how a configuration is loaded."""

from ..config_paths import find_config
from .checks import LEAST_VALUES, check_values
from .device import describe_device, find_device, replace_auto
from .keys import add_yolor_config, get_yolor_cfg, list_keys
from .loading import apply_overrides, load_config, load_run_config, read_config, save_config

__all__ = [
    "LEAST_VALUES",
    "add_yolor_config",
    "apply_overrides",
    "check_values",
    "describe_device",
    "find_config",
    "find_device",
    "get_yolor_cfg",
    "list_keys",
    "load_config",
    "load_run_config",
    "read_config",
    "replace_auto",
    "save_config",
]
