"""What the processes of one training tell each other."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from ..d2.utils import comm


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Which flags are set in at least one process; every process must ask.

    Args:
        flags: of this process.
        device: that of the model, whose backend carries the question.
    """
    if comm.get_world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


@torch.no_grad()
def take_buffers_of_main_process(model: nn.Module) -> None:
    """Copy the buffers of process 0 to all; without SyncBN statistics differ between processes."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
