"""Checks of configuration files before they are merged, so that what is wrong is said clearly.

A file may come from a stranger: nothing in it is executed, only local files are read, and its size
is bounded however its aliases multiply it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..config_paths import find_base
from ..d2.config import CfgNode
from ..wording import did_you_mean
from .node import BASE

# Far beyond any configuration: values after all aliases are expanded, and nesting.
MAX_VALUES = 100_000
MAX_DEPTH = 50


def check_config_file(path: Path, known: CfgNode, below: tuple[Path, ...] = ()) -> None:
    """Check a file and those that it is based on.

    Args:
        path: the file.
        known: all keys with their defaults.
        below: the files that led to this one.

    Raises:
        ValueError: when a file is no mapping in YAML, is too large, or is based on itself or on
            what is no local file.
        KeyError: when a key is unknown; the nearest known one is named.
        FileNotFoundError: when a file does not exist.
    """
    if not path.is_file():
        above = f", which {str(below[-1])!r} is based on" if below else ""
        raise FileNotFoundError(f"no such file {str(path)!r}{above}")
    real = path.resolve()
    if real in below:
        chain = " -> ".join(map(str, [*below, real]))
        raise ValueError(f"{BASE} of configurations runs in a circle: {chain}")
    content = load_yaml(path)
    bases = content.pop(BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "://" in base:
            raise ValueError(f"{path}: {BASE} is {base!r}, expected the path of a local file")
        check_config_file(Path(find_base(path, base)), known, (*below, real))
    # Detectron2 renames the keys of its old files itself.
    if content.get("VERSION", 2) != 1:
        check_keys(content, known, path)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file.

    Raises:
        ValueError: when it is something else, or too large.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        size = expanded_size(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no plain YAML: {error}") from error
    except RecursionError:
        size = MAX_VALUES + 1
    if size > MAX_VALUES:
        raise ValueError(f"{path} is too large or nested too deeply for a configuration")
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{path} is {kind}, expected KEY: VALUE lines")
    return content


def expanded_size(content: Any) -> int:
    """Values in nested data, those behind aliases counted each time that they occur.

    Raises:
        RecursionError: when it is nested too deeply, or contains itself.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise RecursionError
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            items = [*value, *value.values()] if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item, depth + 1) for item in items)
        return sizes[id(value)]

    return size(content, 0)


def check_keys(content: dict, known: CfgNode, path: Path, prefix: str = "") -> None:
    """Compare the keys of a mapping with the known ones; errors as in `check_config_file`."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in known:
            if known.is_new_allowed() or known.key_is_deprecated(name):
                continue
            hint = did_you_mean(name, [f"{prefix}{x}" for x in known])
            raise KeyError(f"{path}: unknown configuration key {name!r}{hint}")
        default = known[key]
        if isinstance(default, CfgNode):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {name} is {value!r}, expected keys below it")
            check_keys(value, default, path, f"{name}.")
