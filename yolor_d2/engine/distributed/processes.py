"""What the processes of one training tell each other."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ...d2.utils import comm


@functools.lru_cache(maxsize=1)
def host_group() -> dist.ProcessGroup | None:
    """The processes, talking from host to host; the default group where it does so."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def any_process(flags: list[bool]) -> list[bool]:
    """Which flags are set in at least one process; every process must ask.

    No process waits for a device: the hosts tell each other.
    """
    if comm.get_world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=host_group())
    return [bool(vote) for vote in votes.tolist()]


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if comm.get_world_size() > 1:
        comm.synchronize()


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """What is inside is done by one process of each machine, and then by its others, which find
    what the first has left on the disk; every process must come here."""
    if comm.get_world_size() == 1:
        yield
        return
    first = comm.get_local_rank() == 0
    if not first:
        wait_for_all()
    yield
    if first:
        wait_for_all()


def require_same(checkpoint: str) -> None:
    """Compare from which checkpoint each process goes on.

    Raises:
        RuntimeError: when they differ, as when a file system shows old files to some machines.
    """
    checkpoints = comm.all_gather(checkpoint)
    if len(set(checkpoints)) > 1:
        named = ", ".join(f"process {i} {name or 'none'!r}" for i, name in enumerate(checkpoints))
        raise RuntimeError(
            f"the processes see different checkpoints: {named}. OUTPUT_DIR must be one folder that "
            "all machines see alike"
        )


@torch.no_grad()
def take_buffers_of_main_process(model: nn.Module) -> None:
    """Copy the buffers of process 0 to all; without SyncBN statistics differ between processes."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def process_state(pid: int) -> str:
    """State of a process of this machine: "gone", "stopped" or "alive"."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        if Path("/proc/self/stat").exists():
            # The field behind the name, which is in brackets; Z and X have ended.
            letter = stat.read_text(errors="replace").rpartition(")")[2].split()[0]
            return {"Z": "gone", "X": "gone", "T": "stopped", "t": "stopped"}.get(letter, "alive")
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    except OSError:  # somebody else's process
        return "alive"
    return "alive"
