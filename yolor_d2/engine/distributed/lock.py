"""One training or evaluation at a time in a folder."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...d2.utils import comm
from ...files.writing import atomic_write
from .processes import process_state

logger = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
# Who holds the lock. Not in the lock itself, which others open before they know that it is held.
HOLDER_NAME = "run.lock.json"
# Seconds that a lock may outlive its holder: processes that the holder forked have the same open
# file until they end, which they do with it.
PATIENCE = 5.0
# The same for a holder that looks alive: it may be about to die.
PATIENCE_WITH_LIVING = 1.0
# Seconds between two tries.
TRY_PERIOD = 0.1


class FolderInUseError(OSError):
    """Another training or evaluation works in the folder."""


def describe_self() -> dict:
    """What the error of another process that wants the same folder reports of this one."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(sys.argv),
    }


def read_holder(folder: Path) -> dict:
    """What the last holder of the lock said of itself; {} if that cannot be read."""
    try:
        holder = json.loads((folder / HOLDER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or damaged
        return {}
    return holder if isinstance(holder, dict) else {}


def is_gone(holder: dict) -> bool:
    """Whether a process is known to have ended: it was one of this host."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    return process_state(holder["pid"]) == "gone"


def is_locked(folder: Path) -> bool:
    """Whether a training or evaluation works in a folder just now."""
    path = folder / LOCK_NAME
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def take_lock(folder: Path) -> FileLock:
    """Take the lock of a folder, which is made if need be.

    The kernel frees it when the process ends, however it ends.

    Raises:
        FolderInUseError: when another process has it, naming host, process, start and command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    begin = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            holder = read_holder(folder)
            alive = bool(holder) and not is_gone(holder)
            if time.monotonic() - begin > (PATIENCE_WITH_LIVING if alive else PATIENCE):
                known = ", ".join(f"{key} {value}" for key, value in holder.items())
                raise FolderInUseError(
                    f"OUTPUT_DIR {str(folder)!r} is in use by another training or evaluation "
                    f"({known or 'which has not said who it is'}): stop it, or give another "
                    "OUTPUT_DIR"
                ) from None
        time.sleep(TRY_PERIOD)
    with atomic_write(folder / HOLDER_NAME) as file:
        file.write(json.dumps(describe_self(), indent=1).encode())
    return lock


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Inside this context no other training or evaluation works in the folder.

    Process 0 holds the lock for all processes, which must enter together.

    Raises:
        FolderInUseError: in all processes, when another training or evaluation has the lock.
    """
    lock, refusal = None, None
    if comm.is_main_process():
        try:
            lock = take_lock(Path(folder))
        except OSError as error:
            refusal = error
    refusal = comm.all_gather(refusal)[0]
    if refusal is not None:
        raise refusal
    try:
        yield
    finally:
        if lock is not None:
            (Path(folder) / HOLDER_NAME).unlink(missing_ok=True)
            lock.release()
