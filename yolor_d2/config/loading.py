"""A configuration from a file and the command line, and that of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config_paths import find_config
from ..d2.config import CfgNode
from ..files.images import limit_pixels
from ..files.writing import atomic_write
from ..inputs import require_pairs
from ..runs import require_run
from ..wording import did_you_mean
from .checks import check_values
from .device import find_device, replace_auto
from .files import check_config_file
from .keys import get_yolor_cfg, list_keys


def read_config(config_file: str | Path) -> CfgNode:
    """The configuration in a file, see `find_config`, on top of all defaults.

    Raises:
        KeyError: when a key is unknown.
        ValueError: when a value has the wrong type, or a file is no configuration.
        FileNotFoundError: when the file, or one that it is based on, does not exist.
    """
    cfg = get_yolor_cfg()
    path = find_config(config_file)
    check_config_file(path, cfg)
    try:
        # YAML is data: tags that construct Python objects are refused.
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (AssertionError, TypeError, ValueError) as error:  # of values that yacs does not take
        raise ValueError(f"{path}: {error}") from error
    replace_auto(cfg)
    return cfg


def apply_overrides(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Set keys from the command line, then check what depends on the machine.

    INPUT.MAX_PIXELS holds from then on for all images that this process reads, see
    `images.limit_pixels`.

    Args:
        cfg: changed in place.
        opts: KEY VALUE KEY VALUE ...

    Raises:
        KeyError: when a key is unknown.
        ValueError: when a value is missing, has the wrong type or makes no sense, or when
            MODEL.DEVICE is a GPU and there is none.
    """
    require_pairs(opts)
    known = set(list_keys(cfg))
    for key in opts[::2]:
        if key not in known:
            raise KeyError(f"unknown configuration key {key!r}{did_you_mean(key, sorted(known))}")
    cfg.merge_from_list(list(opts))
    replace_auto(cfg)
    check_values(cfg)
    limit_pixels(cfg.INPUT.MAX_PIXELS)


def load_config(config_file: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """`read_config`, then `apply_overrides`; not frozen."""
    cfg = read_config(config_file)
    apply_overrides(cfg, opts)
    return cfg


def save_config(cfg: CfgNode, path: Path) -> None:
    """Write a run's configuration, from which it goes on or is evaluated, anywhere.

    MODEL.DEVICE is left out where it is what `find_device` finds, so that the machine where the
    file is read takes its own.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if find_device() == cfg.MODEL.DEVICE:
        del cfg.MODEL["DEVICE"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(cfg.dump().encode())


def load_run_config(folder: Path) -> CfgNode:
    """The configuration of a run, wherever its folder has been moved to, on the CPU.

    Raises:
        FileNotFoundError: when the folder is not that of a run.
    """
    return load_config(require_run(folder), ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)])
