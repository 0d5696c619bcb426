"""The same training in several types and on the CPU: losses on the way, and AP at the end.

The recipe is that of configs/quick/toy_cpu.yaml in fewer iterations. All runs begin with the same
weights and see the same images.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal

import torch

from ...config import load_config
from ...d2.config import CfgNode
from ...d2.engine import HookBase
from ...data.options import use_data
from ...datasets.catalog import register_datasets
from ...engine import Trainer
from ...engine.distributed.interrupt import Interrupted, InterruptHook
from ...toy import write_toy_dataset
from .common import Findings, Setting, config_on, tf32, watch_losses

CONFIG = "quick/toy_cpu.yaml"
ITERATIONS = 400
# Losses are shown at these fractions of the iterations, as means over so many of them.
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
WINDOW = 20
# By name: what autocast computes in, and whether it runs on the CPU in any case.
RUNS = {
    "float32": (None, False),
    "bfloat16": ("bfloat16", False),
    "float16": ("float16", False),
    "float32 on the CPU": (None, True),
}


class StopInTime(HookBase):
    """Ends a training as a signal would, when its time is used up.

    Args:
        interrupt: the trainer's hook that ends it after a signal.
        findings: has the time limit.
        until: seconds of the limit that are left then.
    """

    def __init__(self, interrupt: InterruptHook, findings: Findings, until: float):
        self.interrupt = interrupt
        self.findings = findings
        self.until = until

    def after_step(self) -> None:
        if self.findings.left < self.until:
            self.interrupt.receive(signal.SIGTERM, None)


def training_config(setting: Setting) -> CfgNode:
    """The recipe on generated data, which is written if it is not there."""
    iterations, size, batch, images = (4, 64, 2, 8) if setting.dry else (ITERATIONS, 160, 8, 200)
    workers = 0 if setting.dry else min(4, os.cpu_count() or 1)
    cfg = load_config(
        CONFIG,
        config_on(
            setting,
            *("SOLVER.MAX_ITER", iterations, "SOLVER.CHECKPOINT_PERIOD", iterations),
            # As long a part of the run as in the recipe.
            *("SOLVER.WARMUP_ITERS", iterations // 7, "SOLVER.IMS_PER_BATCH", batch),
            *("INPUT.MIN_SIZE_TRAIN", (size,), "INPUT.MAX_SIZE_TRAIN", size),
            *("INPUT.MIN_SIZE_TEST", size, "INPUT.MAX_SIZE_TEST", size),
            *("DATALOADER.NUM_WORKERS", workers, "TEST.EVAL_PERIOD", 0, "TEST.REPORT", False),
        ),
    )
    toy = write_toy_dataset(
        setting.output / f"toy_{images}", num_train=images, num_val=max(images // 4, 4)
    )
    train = str(toy.train_json), str(toy.train_images)
    use_data(cfg, train, (str(toy.val_json), str(toy.val_images)))
    register_datasets(cfg)
    return cfg


def run_training(cfg: CfgNode, findings: Findings, until: float) -> tuple[list[float], dict]:
    """Losses of the iterations, and COCO's metrics of the average in the end.

    Args:
        cfg: the configuration.
        findings: has the time limit.
        until: seconds left of the limit at which the training ends early.
    """
    torch.manual_seed(cfg.SEED)
    without_test = cfg.clone()
    without_test.DATASETS.TEST = ()  # evaluated below, after an early end too
    trainer = Trainer(without_test)
    trainer.register_hooks([StopInTime(trainer.interrupt, findings, until)])
    losses = watch_losses(trainer.model)
    trainer.resume_or_load(resume=False)
    # What the evaluator prints is in the table.
    with contextlib.redirect_stdout(io.StringIO()):
        with contextlib.suppress(Interrupted):
            trainer.train()
        with trainer.averaged():
            metrics = Trainer.test(cfg, trainer.model)["bbox"]
    return torch.stack(losses).tolist(), metrics


def curve(losses: list[float], iterations: int) -> dict[str, float | None]:
    """First loss, and means that end at some fractions of the iterations; None where there is
    none."""
    points: dict[str, float | None] = {"loss at 1": losses[0]}
    for fraction in FRACTIONS:
        end = round(fraction * iterations)
        window = losses[max(end - WINDOW, 0) : end]
        points[f"loss at {end}"] = sum(window) / len(window) if end <= len(losses) else None
    return points


def measure(setting: Setting, findings: Findings) -> None:
    """Train in each type, each with an equal part of the time that is left."""
    cfg = training_config(setting)
    iterations = cfg.SOLVER.MAX_ITER
    for name in findings.while_time(RUNS):
        dtype, on_cpu = RUNS[name]
        device = "cpu" if on_cpu else setting.device.type
        if setting.dry and (on_cpu or dtype == "float16"):
            findings.leave_out(name, "it needs a GPU" if dtype else "all runs are on the CPU")
            continue
        own = cfg.clone()
        own.MODEL.DEVICE = device
        own.OUTPUT_DIR = str(setting.output / "training" / name.replace(" ", "_"))
        own.SOLVER.AMP.ENABLED = dtype is not None
        own.SOLVER.AMP.DTYPE = dtype or own.SOLVER.AMP.DTYPE
        begin, left = findings.spent, findings.left
        runs_left = len(RUNS) - list(RUNS).index(name)
        with tf32(False):
            losses, metrics = run_training(own, findings, left - left / runs_left)
        if len(losses) < iterations:
            findings.leave_out(f"{name} after iteration {len(losses)}", "no time was left")
        findings.rows.append(
            {
                "run": name,
                "iterations": len(losses),
                **curve(losses, iterations),
                "AP": metrics["AP"],
                "AP50": metrics["AP50"],
                "s with evaluation": findings.spent - begin,
            }
        )
