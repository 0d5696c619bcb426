"""The configurations that come with the package, by their path below `configs/`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ..wording import nearest

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
        raise FileNotFoundError(f"no configuration {name!r}{_hint(name)}")
    return str(path)


def _hint(name: str) -> str:
    """What goes behind the name of a configuration that is not there."""
    known = list_configs()
    file = Path(name).name
    # Who leaves out the folder, or gives it alone, means what is there.
    same = [x for x in known if file and (Path(x).name == file or x.startswith(f"{name}/"))]
    near = same[:3] or nearest(name, known, count=2) or nearest(file, known, count=2)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return (
        ": neither the folder of a run, which has a config.yaml, nor a file, nor a name in "
        f"{str(config_root())!r}, such as 'yolor_p6.yaml'"
    )


def zoo_path(name: str) -> Path | None:
    """Path of a name of the model zoo, with or without configs/ and .yaml; None if it is none."""
    name = name.removeprefix("configs/")
    for path in (config_root() / name, config_root() / f"{name}.yaml"):
        if name and path.is_file():
            return path
    return None


def zoo_name(path: str | Path) -> str | None:
    """Name in the model zoo of a file; None for one that is elsewhere."""
    path, root = Path(path).resolve(), config_root().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def find_base(config_file: str | Path, base: str) -> Path | str:
    """Where the file lies that a configuration names as its `_BASE_`.

    Args:
        config_file: path of the configuration.
        base: a path from its folder, or from anywhere; else a name of the model zoo. An address is
            returned as it is.
    """
    if "://" in base:
        return base
    beside = Path(config_file).parent / Path(base).expanduser()
    return beside if beside.is_file() else zoo_path(base) or beside


def find_config(config_file: str | Path) -> Path:
    """Path of a configuration file.

    Args:
        config_file: a path, the folder of a run, or a name of the model zoo such as
            "yolor_p6.yaml".

    Raises:
        FileNotFoundError: when there is neither such a file nor such a name.
    """
    path = Path(config_file).expanduser()
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    found = path if path.is_file() else zoo_path(str(config_file))
    if found is None:
        raise FileNotFoundError(f"no configuration {str(config_file)!r}{_hint(str(config_file))}")
    return found


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
