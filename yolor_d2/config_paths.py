"""Where configurations lie: those of the model zoo by name, files by path, folders of runs.

It needs neither torch nor Detectron2.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from .wording import nearest


def config_root() -> Path:
    """The folder `configs/`: packaged in an installation, at the top of a checkout."""
    packaged = Path(str(resources.files("yolor_d2.model_zoo"))) / "configs"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[1] / "configs"


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
    # A name without its folder, or the folder alone, stands for the files there.
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
            returned unchanged.
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
    resolved = path if path.is_file() else zoo_path(str(config_file))
    if resolved is None:
        raise FileNotFoundError(f"no configuration {str(config_file)!r}{_hint(str(config_file))}")
    return resolved
