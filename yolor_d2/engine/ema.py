"""Exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..d2.engine import HookBase


class EMAHook(HookBase):
    """Averages the model after every step; the average is what gets evaluated and saved.

    After u updates the decay is decay * (1 - exp(-u / ramp)), so that the first steps are soon
    forgotten. Everything floating in the state dict is averaged, running statistics too; counters
    are copied.

    The hook's state holds the raw weights, as the checkpoint's "model" is the average: loading that
    checkpoint anywhere gives the averaged model, and resuming a run gives back both.

    Args:
        model: the model itself, not its DistributedDataParallel wrapper.
        decay: limit of the decay.
        ramp: updates over which the decay rises, > 0.
        fused: one operation in place of two; it rounds once less.
    """

    def __init__(self, model: nn.Module, *, decay: float, ramp: float, fused: bool = False):
        self.model = model
        self.decay = decay
        self.ramp = ramp
        self.fused = fused
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        # Of the model and of the average: what floats, and the counters.
        self.pairs: list[list[Tensor]] | None = None
        # Raw weights, held here while the average is in the model.
        self.raw: dict[str, Tensor] | None = None

    def before_train(self) -> None:
        self.pairs = None
        if not self.average:  # else the run was resumed
            self.average = clone_state(self.model.state_dict())

    @torch.no_grad()
    def after_step(self) -> None:
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        if self.pairs is None:
            self.pairs = self.pair_up()
        floating, averages, counters, counts = self.pairs
        if self.fused:
            torch._foreach_lerp_(averages, floating, 1 - decay)
        else:
            torch._foreach_mul_(averages, decay)
            torch._foreach_add_(averages, floating, alpha=1 - decay)
        if counters:
            torch._foreach_copy_(counts, counters)

    def pair_up(self) -> list[list[Tensor]]:
        """The model's own tensors and their averages; looking them up takes longer than a step."""
        state = self.model.state_dict()
        names = [
            [name for name, value in state.items() if value.is_floating_point() == floats]
            for floats in (True, False)
        ]
        return [[x[name] for name in chosen] for chosen in names for x in (state, self.average)]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the average inside this context, and its raw weights again after it.

        Before the first step there is no average yet; the model then stays unchanged.
        """
        if not self.average or self.raw is not None:
            yield
            return
        self.raw = clone_state(self.model.state_dict())
        try:
            copy_state(self.average, self.model)
            yield
        finally:
            copy_state(self.raw, self.model)
            self.raw = None

    def state_dict(self) -> dict:
        raw = self.model.state_dict() if self.raw is None else self.raw
        return {"updates": self.updates, "raw": dict(raw)}

    def load_state_dict(self, state: dict) -> None:
        # The checkpointer has already put the checkpoint's "model", the average, into the model.
        self.updates = state["updates"]
        self.average, self.pairs = clone_state(self.model.state_dict()), None
        self.model.load_state_dict(state["raw"])


def clone_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy that later steps do not change."""
    return {name: value.detach().clone() for name, value in state.items()}


@torch.no_grad()
def copy_state(state: dict[str, Tensor], model: nn.Module) -> None:
    """Write values into the model's own tensors, to which the optimiser refers."""
    for name, value in model.state_dict().items():
        value.copy_(state[name])
