"""How many batches an iteration takes, and so which samples it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from ..d2.config import CfgNode


@dataclass(frozen=True)
class Accumulation:
    """Batches per iteration: from 1 to `full` during the warm-up, then `full`.

    The number is a function of the iteration alone, so the position of a run in its data is one
    too, however often the run was interrupted.

    Attributes:
        full: batches per iteration after the warm-up, at least 1.
        warmup_iters: iterations of the warm-up.
    """

    full: int = 1
    warmup_iters: int = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Accumulation:
        """As many batches as come closest to SOLVER.NOMINAL_BATCH images.

        Raises:
            ValueError: when that is negative, or when SOLVER.IMS_PER_BATCH is no number yet.
        """
        if cfg.SOLVER.IMS_PER_BATCH == "auto":
            raise ValueError(
                "SOLVER.IMS_PER_BATCH is 'auto', which only yolor-d2 train turns into a number: "
                "give one"
            )
        nominal = cfg.SOLVER.NOMINAL_BATCH
        if nominal < 0:
            raise ValueError(f"SOLVER.NOMINAL_BATCH is {nominal}, expected 0 (off) or more")
        return cls(max(round(nominal / cfg.SOLVER.IMS_PER_BATCH), 1), cfg.SOLVER.WARMUP_ITERS)

    def batches_of(self, iteration: int) -> int:
        """Batches whose gradients this iteration sums."""
        if iteration >= self.warmup_iters:
            return self.full
        return round(1 + (self.full - 1) * iteration / self.warmup_iters)

    def batches_before(self, iteration: int) -> int:
        """Batches of all iterations before this one."""
        if self.full == 1:
            return iteration
        ramp = min(iteration, self.warmup_iters)
        return sum(map(self.batches_of, range(ramp))) + (iteration - ramp) * self.full
