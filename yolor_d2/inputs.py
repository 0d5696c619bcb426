"""Files and folders that a user names: found, or told to be missing.

It needs neither torch nor Detectron2, so that a command can look at what it was given before it
imports what it works with. The work asks the same functions again, hence the same messages.
"""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from .wording import did_you_mean

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy"}

WEIGHTS_KEY = "MODEL.WEIGHTS"


def require_path(path: str | Path) -> None:
    """Raise a FileNotFoundError where there is neither file nor folder."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file or folder {str(path)!r}")


def require_all(*paths: Path) -> None:
    """Raise a FileNotFoundError for the first of several files and folders that is missing."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such path {str(path)!r}")


def require_readable(path: Path) -> None:
    """Raise the FileNotFoundError that opening a file would raise."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def require_file(option: str, path: Path) -> None:
    """Raise a FileNotFoundError where an option names no file."""
    if not path.is_file():
        raise FileNotFoundError(f"{option}: no such file {str(path)!r}")


# ---- Data sets


def dataset_name(json_file: Path) -> str:
    """Name of a data set by folder and file, which tells most apart."""
    return f"{json_file.resolve().parent.name}/{json_file.stem}"


def require_registered(name: str, path: str) -> None:
    """Raise a FileNotFoundError where a file or folder of a registered data set is missing."""
    if not Path(path).exists():
        raise FileNotFoundError(f"DATASETS.REGISTER, data set {name!r}: no such path {path!r}")


def require_datasets(train: Sequence[str] | None, val: Sequence[str] | None = None) -> None:
    """Look for the data sets of --train and --val, see `require_source`."""
    for name, paths in (("train", train), ("val", val)):
        if paths is not None:
            require_source(name, paths)


def require_source(name: str, paths: Sequence[str]) -> None:
    """Look for a data set by one path of YOLO's or VOC's format, or two of COCO's.

    Args:
        name: of the option.
        paths: what it was given.

    Raises:
        FileNotFoundError: when something is missing.
        ValueError: when a COCO file comes without a folder.
    """
    if len(paths) == 2:
        if not Path(paths[1]).is_dir():
            raise FileNotFoundError(f"--{name}: no folder {paths[1]!r}")
        if not Path(paths[0]).exists():
            raise FileNotFoundError(f"--{name}: no annotation file {paths[0]!r}")
    elif Path(paths[0]).suffix.lower() == ".json":
        raise ValueError(f"--{name} {paths[0]!r}: a COCO file needs the folder of its images too")
    else:
        require_path(paths[0])


# ---- Images


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Image files among files and in folders, in the order of their names.

    Raises:
        FileNotFoundError: when a source does not exist, or there is no image.
    """
    paths: list[Path] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"--input: no such file or folder {str(source)!r}")
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        paths += [x for x in files if source.is_file() or x.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise FileNotFoundError(f"--input: no image in {', '.join(map(str, sources))}")
    return paths


# ---- Weights and other overrides


def require_pairs(opts: Sequence[str]) -> None:
    """Raise a ValueError where the last key of an override has no value."""
    if len(opts) % 2:
        raise ValueError(f"overrides are KEY VALUE pairs, but {opts[-1]!r} has no value")


def require_overrides(opts: Sequence[str]) -> None:
    """Look at KEY VALUE pairs, as far as that goes without modules of the user, which may bring
    tasks of their own.

    Raises:
        ValueError: when a value is missing.
        KeyError: when a key is unknown; it names the nearest known one.
    """
    # Here, as it reads files.
    from .completion import TASKS_NODE, list_keys
    from .own_modules import announced

    require_pairs(opts)
    for key in opts[::2]:
        may_be_own = key.startswith(TASKS_NODE) and announced()
        if key not in list_keys() and not may_be_own:
            raise KeyError(f"unknown configuration key {key!r}{did_you_mean(key, list_keys())}")


def require_weights(path: str) -> None:
    """Raise a FileNotFoundError where a model to predict with has no file of weights."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{WEIGHTS_KEY} is {path!r}: no such file")


def require_weights_or_address(path: str) -> None:
    """Raise a FileNotFoundError where weights are neither a file nor to be fetched; "" is none."""
    if path and "://" not in path and not Path(path).is_file():
        raise FileNotFoundError(f"{WEIGHTS_KEY} or last checkpoint: no such file {path!r}")


def overridden_weights(opts: Sequence[str]) -> str | None:
    """MODEL.WEIGHTS among KEY VALUE pairs as the configuration takes it; None if it is not there,
    or no text, which is an error of another kind."""
    values = [value for key, value in zip(opts[::2], opts[1::2]) if key == WEIGHTS_KEY]
    if not values:
        return None
    try:
        value = ast.literal_eval(values[-1])
    except (ValueError, SyntaxError):
        return values[-1]
    return value if isinstance(value, str) else None
