"""What a step found, on its way from the device to the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from ..d2.utils import comm

# What to do about a loss that is no number.
ADVICE = (
    "halve SOLVER.BASE_LR or warm up longer (SOLVER.WARMUP_ITERS), with SOLVER.AMP try SOLVER.AMP."
    "DTYPE bfloat16, and let yolor-d2 check look at the boxes of these images"
)


def start_copy(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy for the host, and what says that it has arrived; None if it has."""
    if values.device.type != "cuda":
        return values.cpu(), None
    host = torch.empty_like(values, device="cpu", pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


@dataclass
class Readout:
    """Losses, positives and the norm of the gradients of one iteration.

    Nothing waits for them before `read`. The processes of a training tell each other on the device
    whether all their numbers are finite.

    Attributes:
        iteration: which one.
        losses: 0-dim tensors by name, of each batch.
        files: names of the images, of each batch.
        positives: (L,) of the last batch; None if the model counts none.
        norm: of all gradients, 0-dim; None if it is not asked for.
        norm_may_overflow: an infinite norm is no fault, as with scaled gradients.
        seconds: that loading took.
        rates: learning rates and momentum of this step by name.
    """

    iteration: int
    losses: Sequence[dict[str, Tensor]]
    files: Sequence[Sequence[str | None]]
    positives: Tensor | None = None
    norm: Tensor | None = None
    norm_may_overflow: bool = False
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        losses = torch.stack([loss for part in self.losses for loss in part.values()]).double()
        norm = losses.new_zeros(1) if self.norm is None else self.norm.double()[None]
        checked = torch.zeros_like(norm) if self.norm_may_overflow else norm
        faults = torch.stack([(~x.isfinite()).any() for x in (losses, checked)]).double()
        if comm.get_world_size() > 1:
            dist.all_reduce(faults, op=dist.ReduceOp.MAX)
        counts = losses.new_zeros(0) if self.positives is None else self.positives.double()
        self.host, self.arrived = start_copy(torch.cat([faults, norm, counts, losses]))

    def read(self) -> StepMetrics:
        """Wait for the numbers.

        Raises:
            FloatingPointError: when one is not finite in this process or in another, naming the
                terms, the iteration and the images.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        bad_loss, bad_norm, norm, *values = self.host.tolist()
        num_levels = 0 if self.positives is None else len(self.positives)
        counts, values = values[:num_levels], iter(values[num_levels:])
        losses = [{name: next(values) for name in part} for part in self.losses]
        if bad_loss:
            self.refuse(losses)
        if bad_norm:
            raise FloatingPointError(
                f"the norm of the gradients is {norm} at iteration {self.iteration}; {ADVICE}"
            )
        norm = None if self.norm is None else norm
        return StepMetrics(self.iteration, losses, counts, norm, self.seconds, self.rates)

    def refuse(self, losses: list[dict[str, float]]) -> None:
        """Raise, see `read`."""
        faults = [
            f"{', '.join(f'{name} = {value}' for name, value in part.items())}; images: {names}"
            for part, names in zip(losses, self.files)
            if not all(map(math.isfinite, part.values()))
        ]
        raise FloatingPointError(
            f"a loss is not finite at iteration {self.iteration}: "
            f"{' | '.join(faults) or 'in another process, which names the images'}; {ADVICE}"
        )


@dataclass(frozen=True)
class StepMetrics:
    """The numbers of one iteration in one process; see `Readout`."""

    iteration: int
    losses: list[dict[str, float]]
    positives: list[float]
    norm: float | None
    seconds: float
    rates: dict[str, float]
