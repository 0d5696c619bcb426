"""The configurations that come with the package, by their path below `configs/`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ..d2.config import CfgNode


def config_root() -> Path:
    """The folder `configs/`: packaged in an installation, at the top of a checkout."""
    packaged = Path(str(resources.files(__name__))) / "configs"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "configs"


def list_configs() -> list[str]:
    """Names of all configurations, sorted."""
    root = config_root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def get_config_file(name: str) -> str:
    """Path of a configuration.

    Args:
        name: path below `configs/`, e.g. "yolor_p6.yaml" or "quick/toy_cpu.yaml".

    Raises:
        FileNotFoundError: when there is none of that name.
    """
    path = config_root() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"no configuration {name!r}, expected a file or one of {list_configs()}"
        )
    return str(path)


def find_config(config_file: str | Path) -> Path:
    """Path of a configuration file.

    Args:
        config_file: a path, or a name of the model zoo such as "yolor_p6.yaml".

    Raises:
        FileNotFoundError: when there is neither such a file nor such a name.
    """
    path = Path(config_file)
    return path if path.is_file() else Path(get_config_file(str(config_file)))


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
        ValueError: when trained weights are asked for and the configuration names none.
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
