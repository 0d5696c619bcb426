"""Processes: here there is always one."""

from __future__ import annotations

from typing import Any

from ..runtime import INSTALL_COMMAND


def get_world_size() -> int:
    return 1


def get_local_size() -> int:
    return 1


def get_rank() -> int:
    return 0


def is_main_process() -> bool:
    return True


def gather(data: Any) -> list:
    """What every process gives, in process 0."""
    return [data]


def all_gather(data: Any) -> list:
    """What every process gives, in all of them."""
    return [data]


def require_one_process(number: int) -> None:
    """Refuse to run in several processes.

    Raises:
        RuntimeError: when `number` is above 1; it names the command that installs Detectron2.
    """
    if number > 1:
        raise RuntimeError(
            f"the built-in runtime works in one process, not {number}. Several GPUs or machines "
            f"need Detectron2: {INSTALL_COMMAND}"
        )
