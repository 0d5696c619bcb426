"""One of the processes that `test_distributed.py` starts; they share the work on the CPU.

python distributed_worker.py SCENARIO CONFIG RANK WORLD_SIZE STORE
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from yolor_d2.config import load_config
from yolor_d2.d2.engine import HookBase
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer


class KeepGradients(HookBase):
    """Saves the gradients of the first iteration."""

    def after_step(self) -> None:
        if self.trainer.iter == 0:
            names = self.trainer.model.module.named_parameters()
            gradients = {name: p.grad for name, p in names}
            torch.save(gradients, Path(self.trainer.cfg.OUTPUT_DIR) / "gradients.pth")


class SignalAt(HookBase):
    def before_step(self) -> None:
        if self.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main(scenario: str, config: str, rank: int, world_size: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    cfg = load_config(config)
    register_datasets(cfg)
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    step = trainer._trainer
    backward = step.backward
    if scenario == "plain" and rank == 0:
        trainer.register_hooks([KeepGradients()])
    if scenario == "empty" and rank == 1:
        step.backward = lambda batch: backward(
            [{**x, "instances": x["instances"][:0]} for x in batch]
        )
    if scenario == "signal" and rank == 1:
        trainer.register_hooks([SignalAt()])
    if scenario == "nan" and rank == 1:
        step.backward = lambda batch: {**backward(batch), "loss_box": torch.tensor(math.nan)}
    trainer.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
