"""Learning rate and momentum over the run."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..d2.config import CfgNode


class WarmupCosine(LRScheduler):
    """Cosine from the base learning rate to a fraction of it, with a warm-up per parameter group.

    At iteration i of the warm-up everything is interpolated linearly in i / warmup_iters: the
    learning rate of the group of kind "bias" comes down from `warmup_bias_lr`, that of the others
    up from 0, both to the cosine's value; the momentum comes from `warmup_momentum`.

    Args:
        optimizer: its groups carry the base learning rate in "lr", the final momentum in
            "momentum".
        max_iter: iterations of the whole run.
        final_factor: the cosine ends at this fraction of the base learning rate.
        warmup_iters: length of the warm-up, 0 for none.
        warmup_bias_lr: see above.
        warmup_momentum: see above.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_iter: int,
        final_factor: float,
        warmup_iters: int = 0,
        warmup_bias_lr: float = 0.1,
        warmup_momentum: float = 0.8,
    ):
        self.max_iter = max_iter
        self.final_factor = final_factor
        self.warmup_iters = warmup_iters
        self.warmup_bias_lr = warmup_bias_lr
        self.warmup_momentum = warmup_momentum
        self.momenta = [group["momentum"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def cosine(self, iteration: int) -> float:
        """Fraction of the base learning rate at an iteration, without warm-up."""
        progress = min(iteration / self.max_iter, 1.0)
        return (1 + math.cos(math.pi * progress)) / 2 * (1 - self.final_factor) + self.final_factor

    def from_warmup(self, start: float, regular: float) -> float:
        """The value of the current iteration between that at the start and the regular one."""
        if self.last_epoch >= self.warmup_iters:
            return regular
        return start + (regular - start) * self.last_epoch / self.warmup_iters

    def get_lr(self) -> list[float]:
        factor = self.cosine(self.last_epoch)
        return [
            self.from_warmup(
                self.warmup_bias_lr if group.get("kind") == "bias" else 0.0, base * factor
            )
            for group, base in zip(self.optimizer.param_groups, self.base_lrs)
        ]

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        for group, momentum in zip(self.optimizer.param_groups, self.momenta):
            group["momentum"] = self.from_warmup(self.warmup_momentum, momentum)

    def apply(self) -> None:
        """Set the current iteration's values, when an optimiser was loaded with others."""
        for group, rate, momentum in zip(self.optimizer.param_groups, self.get_lr(), self.momenta):
            group["lr"] = rate
            group["momentum"] = self.from_warmup(self.warmup_momentum, momentum)

    def state_dict(self) -> dict:
        """The iteration alone: everything else belongs to the configuration."""
        return {"last_epoch": self.last_epoch}


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> WarmupCosine:
    """The schedule of the configuration.

    Raises:
        ValueError: when SOLVER.BASE_LR, of which all other rates are fractions, is not positive.
    """
    if cfg.SOLVER.BASE_LR <= 0:
        raise ValueError(f"SOLVER.BASE_LR is {cfg.SOLVER.BASE_LR}, expected above 0")
    return WarmupCosine(
        optimizer,
        max_iter=cfg.SOLVER.MAX_ITER,
        final_factor=cfg.SOLVER.BASE_LR_END / cfg.SOLVER.BASE_LR,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_bias_lr=cfg.SOLVER.WARMUP_BIAS_LR,
        warmup_momentum=cfg.SOLVER.WARMUP_MOMENTUM,
    )
