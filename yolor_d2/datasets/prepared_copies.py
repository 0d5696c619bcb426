"""Prepared copies of large COCO files, found again by the content of the file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..files.writing import atomic_write
from .annotations import Annotations, Strings

logger = logging.getLogger(__name__)

# Of larger files, in bytes, prepared copies are kept; smaller ones are read in a second.
SMALL_FILE = 64 * 2**20
# What a prepared copy says it is; the number changes with its form.
FORMAT = "yolor_d2 annotations 2"

_copies: Path | None = None


def is_large(path: Path) -> bool:
    """Whether a prepared copy of a file is worth keeping."""
    return path.stat().st_size > SMALL_FILE


def keep_copies_in(folder: Path | None) -> None:
    """Where this process looks for prepared copies and leaves them; None for nowhere."""
    global _copies
    _copies = folder


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def copy_path(path: Path, kind: str = "") -> Path | None:
    """Where a prepared copy of a file is looked for, by its content; None for nowhere."""
    return None if _copies is None else _copies / f"{hash_file(path)}.{kind}safetensors"


def keep_copy(content: bytes, path: Path, what: str) -> None:
    """Write a prepared copy, whole or not at all, also while others write the same; say so if
    that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as file:
            file.write(content)
        logger.info("%s: prepared copy in %s", what, path)
    except OSError as error:  # the next process reads the file once more
        logger.warning("%s: no prepared copy can be kept: %s", what, error)


def prepared_arrays(
    path: Path,
    kind: str,
    form: str,
    ids: np.ndarray,
    make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays of a COCO file's objects that are kept apart from the rest, from the prepared copy of
    a large file if there is one.

    Args:
        path: of the file.
        kind: what the arrays are.
        form: what a copy says it is.
        ids: (M,) of the objects, in the order wanted.
        make: reads the arrays from the file.
    """
    if not is_large(path) or _copies is None:
        return make()
    copy, title = copy_path(path, f"{kind}."), kind.capitalize()
    assert copy is not None
    values = read_arrays(copy, form, ids)
    if values is not None:
        logger.info("%s of %s: from the prepared copy %s", title, path, copy)
        return values
    values = make()
    arrays = {name: np.ascontiguousarray(x) for name, x in values.items()}
    content = save({**arrays, "ids": ids}, metadata={"format": form})
    keep_copy(content, copy, f"{title} of {path}")
    return values


def read_arrays(path: Path, form: str, ids: np.ndarray) -> dict[str, np.ndarray] | None:
    """What a prepared copy holds; None when it is not there, damaged, or of other objects."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != form:
                return None
            if not np.array_equal(file.get_tensor("ids"), ids):
                return None
            return {name: file.get_tensor(name) for name in file.keys() if name != "ids"}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("The prepared copy %s cannot be used and is made again: %s", path, error)
        return None


def copy_of(annotations: Annotations) -> bytes:
    """Content of a prepared copy."""
    arrays, texts = {}, {}
    for entry in fields(annotations):
        value = getattr(annotations, entry.name)
        if isinstance(value, np.ndarray):
            arrays[entry.name] = np.ascontiguousarray(value)
        elif isinstance(value, Strings):
            arrays[entry.name], arrays[f"{entry.name}_ends"] = value.data, value.ends
        else:
            texts[entry.name] = json.dumps(list(value))
    return save(arrays, metadata={"format": FORMAT, **texts})


def read_copy(path: Path) -> Annotations | None:
    """What a prepared copy holds; None when it is not there, damaged or of another form."""
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            if texts.get("format") != FORMAT:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = Strings(arrays.pop("file_names"), arrays.pop("file_names_ends"))
        lists = {name: json.loads(texts[name]) for name in texts if name != "format"}
        return Annotations(**arrays, **lists, file_names=names)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("The prepared copy %s cannot be used and is made again: %s", path, error)
        return None
