"""A training step in a process group of one, beside the same step without one.

With one process nothing is exchanged, but all of it runs: the backend starts, gradients go through
DistributedDataParallel's buckets, and batch norms are those that are shared between processes.
"""

from __future__ import annotations

import argparse
import datetime
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...config import load_config
from ...d2.config import CfgNode
from ...d2.utils import EventStorage
from ...engine import Trainer
from ...engine.step import StepTrainer
from ..step import random_batch
from .common import Findings, Setting, config_on, square, tf32, watch_losses

CONFIG = "yolor_ssss_s2d.yaml"
STEPS = 2
# Sums in another order, on a GPU in another order each time.
TOLERANCE = 1e-3
WAITS = datetime.timedelta(seconds=30)


def losses_of(cfg: CfgNode, batch: list[dict], wrap: Callable[[nn.Module], nn.Module]) -> list:
    """Losses of steps from the same weights.

    Args:
        cfg: the configuration.
        batch: of each step.
        wrap: what becomes of the model before the first step.
    """
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    wrapped = wrap(model)
    losses = watch_losses(wrapped)
    optimizer = Trainer.build_optimizer(cfg, wrapped)
    step = StepTrainer(wrapped, [batch] * STEPS, optimizer)
    with EventStorage():
        for step.iter in range(STEPS):
            step.run_step()
    return torch.stack(losses).tolist()


def distributed(model: nn.Module) -> nn.Module:
    """The model for several processes; on a GPU with batch norms that they share."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return DistributedDataParallel(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device])


def losses_in_group(cfg: CfgNode, batch: list[dict], backend: str) -> list[float]:
    """Losses of steps in a process group of one, which is closed again."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder).resolve() / "meeting").as_uri()
        dist.init_process_group(backend, meeting, timeout=WAITS, world_size=1, rank=0)
        try:
            return losses_of(cfg, batch, distributed)
        finally:
            dist.destroy_process_group()


def measure(setting: Setting, findings: Findings) -> None:
    """Compare the losses.

    Raises:
        ValueError: when a loss is not finite, or differs.
    """
    size, count = (64, 2) if setting.dry else (320, 8)
    backend = "nccl" if setting.device.type == "cuda" else "gloo"
    if backend == "gloo":
        findings.leave_out("batch norm shared between processes, NCCL", "they need a GPU")
    cfg = load_config(CONFIG, config_on(setting))
    square(cfg, size)
    options = argparse.Namespace(batch=count, boxes=8)
    batch = random_batch(options, size, cfg.MODEL.YOLOR.NUM_CLASSES)
    if setting.device.type == "cuda":
        torch.cuda.set_device(0)
    with tf32(False):
        alone = losses_of(cfg, batch, lambda model: model)
        grouped = losses_in_group(cfg, batch, backend)
    for i, (one, other) in enumerate(zip(alone, grouped)):
        findings.rows.append(
            {
                "step": i + 1,
                "loss alone": one,
                f"loss with {backend}": other,
                "difference, % of it": 100 * abs(other - one) / one,
            }
        )
    if not all(map(math.isfinite, alone + grouped)):
        raise ValueError(f"a loss is not finite: {alone} alone, {grouped} in a group")
    if any(abs(a - b) > TOLERANCE * abs(a) for a, b in zip(alone, grouped)):
        raise ValueError(f"losses differ by more than {TOLERANCE} of them: {alone}, {grouped}")
