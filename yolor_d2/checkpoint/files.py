"""Checkpoint files on the disk: written whole or not at all, and checked before a run goes on."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..files.writing import TEMPORARY_SUFFIX

logger = logging.getLogger(__name__)

# File that names the checkpoint to resume from.
LAST_NAME = "last_checkpoint"
# The checkpoints of a run: by iteration, and the final one.
RUN_FILE = re.compile(r"model_(\d+|final)\.pth")
# Those by iteration alone.
NUMBERED_FILE = re.compile(r"model_(\d+)\.pth")


def remove_temporaries(folder: Path) -> None:
    """Delete what interrupted writes have left."""
    for name in (f"*.pth{TEMPORARY_SUFFIX}", f"{LAST_NAME}{TEMPORARY_SUFFIX}"):
        for path in folder.glob(name):
            logger.info("Removing %s, left by an interrupted write", path)
            path.unlink(missing_ok=True)


def find_fault(path: Path) -> str | None:
    """Why a run cannot be resumed from a file; None when it can.

    Every byte is compared with the checksums in the file.
    """
    if not path.is_file():
        return "no such file"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"its part {damaged!r} is damaged"
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers raise
        return f"{type(error).__name__}: {error}".splitlines()[0]
    missing = {"model", "trainer", "iteration"} - set(content)
    if missing == {"trainer"}:
        checkpoint = numbered_name(content)
        return f"it holds only weights, for inference; the training resumes from {checkpoint}"
    return f"it holds no {', '.join(sorted(missing))}" if missing else None


def numbered_name(content: dict) -> str:
    """Name of the checkpoint with the state of the training at the iteration of a file."""
    return f"model_{content['iteration']:07d}.pth"


def find_state_beside(path: Path) -> Path:
    """The checkpoint that a training resumes from, for a file that may hold weights alone.

    Final weights carry no state of the training, which lies in the numbered checkpoint beside them.

    Returns:
        `path` itself where it is a whole checkpoint, or where there is no other.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if "trainer" in content:
            return path
        beside = path.with_name(numbered_name(content))
    except Exception:  # whatever is wrong with it is reported by `find_fault`
        return path
    return beside if beside.is_file() else path


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest numbered checkpoints of a run.

    Final and best weights have no number; the checkpoint that `last_checkpoint` names is the newest
    of the run, and those with a higher number, which only another run can have written, stay.

    Args:
        folder: of the run.
        keep: how many stay, at least 1.
    """
    last = folder / LAST_NAME
    newest = NUMBERED_FILE.fullmatch(last.read_text().strip()) if last.is_file() else None
    if newest is None:
        return
    by_iteration = {
        int(match[1]): path
        for path in folder.glob("model_*.pth")
        if (match := NUMBERED_FILE.fullmatch(path.name)) and int(match[1]) <= int(newest[1])
    }
    for number in sorted(by_iteration)[:-keep]:
        by_iteration[number].unlink(missing_ok=True)


def read_iteration(path: Path) -> int:
    """The last iteration of a whole checkpoint."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)["iteration"]


def find_resumable(folder: Path) -> Path | None:
    """The checkpoint from which a run goes on.

    That is the one that `last_checkpoint` names. If that file is missing or broken, or names a
    broken one, it is the newest whole checkpoint of the folder, with a warning.

    Returns:
        None when the folder has no checkpoint of a run.

    Raises:
        ValueError: when there are checkpoints, but all are broken.
    """
    files = [path for path in folder.glob("model_*.pth") if RUN_FILE.fullmatch(path.name)]
    last = folder / LAST_NAME
    if last.is_file():
        name = last.read_bytes().decode("utf-8", errors="replace").strip()
        # Anything but a plain file name is garbage.
        named = folder / name if name and name == os.path.basename(name) else None
        fault = find_fault(named) if named else "it names no file"
        if named and fault is None:
            return named
        logger.warning("%s cannot be used: %s (%s)", last, repr(name[:80]), fault)
        files += [named] if named and named not in files else []
    elif not files:
        return None
    else:
        logger.warning("%s is missing", last)

    faults = {path: find_fault(path) for path in files}
    whole = [path for path, fault in faults.items() if fault is None]
    if not whole:
        raise ValueError(
            f"no checkpoint in {str(folder)!r} can be read: "
            f"{'; '.join(f'{path.name} ({fault})' for path, fault in faults.items())}. "
            "To start anew, give another OUTPUT_DIR or --overwrite"
        )
    newest = max(whole, key=read_iteration)
    logger.warning("Resuming from %s, the newest intact checkpoint", newest)
    return newest


def find_not_finite(data: Any, where: str = "") -> str | None:
    """Place of the first tensor in nested dicts and lists that has an infinite value or NaN."""
    if isinstance(data, torch.Tensor):
        # The sum of finite values may overflow, which the second, slower look sorts out.
        broken = data.is_floating_point() and not data.sum().isfinite()
        return where if broken and not data.isfinite().all() else None
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list | tuple):
        items = enumerate(data)
    else:
        return None
    for key, value in items:
        place = find_not_finite(value, f"{where}/{key}" if where else str(key))
        if place is not None:
            return place
    return None
