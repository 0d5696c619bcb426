"""Training steps at rising batches: images per second, memory, stages, and waits for the device.

Images are noise with a few boxes. Stages are taken by events on the device; "rest" is what lies
between them, as copying the images and metrics for the log.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from ...config import load_config
from ...d2.config import CfgNode
from ...d2.utils import EventStorage
from ..step import build_step, random_batch
from .common import (
    Findings,
    Setting,
    config_on,
    free_memory,
    square,
    tf32,
    unless_too_large,
    watch_memory,
)

MODEL = ("yolor_p6.yaml", 1280)
DRY_MODEL = ("yolor_ssss_s2d.yaml", 64)
BOXES = 8  # per image, about as many as in COCO
WARM_UP = 2  # steps, which also allocate what the optimiser keeps
STEPS = 4
LARGEST_BATCH = 512
PLACES = 8  # lines with a wait that are named
# Part of torch's warning of a wait.
WAIT = "called a synchronizing"

# A moment of a step: an event on a GPU, else a time.
Mark = torch.cuda.Event | float
# Marks between which a stage lies. The model's two methods come first, and the optimiser's step
# follows the backward pass.
STAGES = {
    "network": ("network begins", "network ends"),
    "assignment and loss": ("loss begins", "loss ends"),
    "backward": ("loss ends", "optimiser begins"),
    "optimiser": ("optimiser begins", "optimiser ends"),
    "average": ("average begins", "average ends"),
}
WHOLE = ("step begins", "step ends")


class Marks:
    """When the device reaches the borders of the stages of a step, by name.

    Args:
        device: that of the model.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.reached: dict[str, Mark] = {}

    def set(self, name: str) -> None:
        if self.device.type != "cuda":
            self.reached[name] = time.perf_counter()
            return
        self.reached[name] = event = torch.cuda.Event(enable_timing=True)
        event.record()

    def around(self, owner: object, method: str, stage: str) -> None:
        """Let all further calls of a method of an object set the marks of a stage."""
        function = getattr(owner, method)

        def call(*args: object, **kwargs: object) -> object:
            self.set(f"{stage} begins")
            result = function(*args, **kwargs)
            self.set(f"{stage} ends")
            return result

        setattr(owner, method, call)


def milliseconds(start: Mark, end: Mark) -> float:
    """Between two marks; the device must have reached both."""
    if isinstance(start, float) and isinstance(end, float):
        return 1000 * (end - start)
    return start.elapsed_time(end)


def stage_columns(steps: list[dict[str, Mark]]) -> dict[str, float]:
    """Milliseconds of each stage, the median of some steps, and of what is in none."""
    rows = []
    for marks in steps:
        row = {
            stage: milliseconds(marks[start], marks[end]) for stage, (start, end) in STAGES.items()
        }
        whole = milliseconds(*(marks[name] for name in WHOLE))
        rows.append({**row, "rest": whole - sum(row.values())})
    return {f"{name}, ms": statistics.median(row[name] for row in rows) for name in rows[0]}


class MarkedSteps:
    """Training steps that leave marks. What this part knows of the inside of a step is here.

    Args:
        cfg: the configuration.
    """

    def __init__(self, cfg: CfgNode):
        self.step = build_step(cfg, [], 0)
        self.marks = Marks(self.step.device)
        self.marks.around(self.step.model, "run_network", "network")
        self.marks.around(self.step.model, "forward_training", "loss")
        self.marks.around(self.step.optimizer, "step", "optimiser")
        (self.average,) = self.step._hooks
        self.marks.around(self.average, "after_step", "average")

    def use(self, batch: list[dict], count: int) -> None:
        """The next steps, so many, take this batch."""
        self.step.reset_data_loader(lambda: [batch] * count)

    def take(self, count: int) -> list[dict[str, Mark]]:
        """Marks of each of so many further steps."""
        taken = []
        for _ in range(count):
            self.marks.reached = {}
            self.marks.set("step begins")
            self.step.run_step()
            self.average.after_step()
            self.marks.set("step ends")
            self.step.iter += 1
            taken.append(self.marks.reached)
        return taken


def step_config(setting: Setting, precision: str) -> CfgNode:
    """The configuration of the steps, in float32 or with autocast to bfloat16."""
    config, size = DRY_MODEL if setting.dry else MODEL
    cfg = load_config(
        config,
        config_on(
            setting,
            *("MODEL.CHANNELS_LAST", True),
            *("SOLVER.AMP.ENABLED", precision != "float32", "SOLVER.AMP.DTYPE", "bfloat16"),
            *("SOLVER.FUSED", True),
            # Noise teaches nothing: steps that hardly change the weights keep the losses finite.
            *("SOLVER.BASE_LR", 1e-6),
        ),
    )
    square(cfg, size)
    return cfg


def noise(cfg: CfgNode, size: int) -> list[dict]:
    """A batch of so many images."""
    options = argparse.Namespace(batch=size, boxes=BOXES)
    return random_batch(options, cfg.INPUT.MAX_SIZE_TRAIN, cfg.MODEL.YOLOR.NUM_CLASSES)


def time_batch(setting: Setting, cfg: CfgNode, steps: MarkedSteps, size: int) -> dict:
    """A row for one size of the batch."""
    steps.use(noise(cfg, size), WARM_UP + STEPS)
    steps.take(WARM_UP)
    memory = watch_memory(setting)
    # Together: nothing but the steps themselves waits between them.
    marks: list[dict[str, Mark]] = []
    _, seconds, _ = setting.clock(lambda: marks.extend(steps.take(STEPS)))
    return {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "size": cfg.INPUT.MAX_SIZE_TRAIN,
        "type": "float32 (TF32)" if steps.step.precision is None else "bfloat16",
        "batch": size,
        "images / s": size * STEPS / seconds,
        "ms / step": 1000 * seconds / STEPS,
        **stage_columns(marks),
        "peak MiB": memory(),
    }


def count_waits(step: Callable[[], object]) -> Counter[str]:
    """Lines of code at which a call waits for the GPU, as far as torch notices, and how often."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{'/'.join(Path(x.filename).parts[-3:])}:{x.lineno}"
        for x in caught
        if WAIT in str(x.message)
    )


def note_waits(setting: Setting, cfg: CfgNode, steps: MarkedSteps, findings: Findings) -> None:
    """Say where a step with one image waits for the GPU."""
    if setting.device.type != "cuda":
        findings.leave_out("waits for the device in a step", "they need a GPU")
        return
    steps.use(noise(cfg, 1), 2)
    steps.take(1)
    waits = count_waits(lambda: steps.take(1))
    places = [f"{place} ({count} times)" for place, count in waits.most_common(PLACES)]
    findings.notes.append(
        f"A step waits {waits.total()} times for the device, at {len(waits)} lines: "
        + ", ".join(places)
        + "."
    )


def add_batch(
    setting: Setting, cfg: CfgNode, steps: MarkedSteps, findings: Findings, size: int
) -> bool:
    """Add a row for one size of the batch; False when it is too large."""
    what = "float32" if steps.step.precision is None else "bfloat16"
    row = unless_too_large(findings, what, size, time_batch, setting, cfg, steps, size)
    if row is not None:
        findings.rows.append(row)
        return True
    steps.step.optimizer.zero_grad()  # what the step has left
    free_memory()
    return False


def rising_batches(setting: Setting, cfg: CfgNode, steps: MarkedSteps, findings: Findings) -> None:
    """Rows for batches of 1, 2, 4, ... until memory or time ends."""
    sizes = [2**i for i in range((2 if setting.dry else LARGEST_BATCH).bit_length())]
    for size in findings.while_time(sizes):
        if not add_batch(setting, cfg, steps, findings, size):
            return


def one_batch_in_float32(setting: Setting, findings: Findings) -> None:
    """A row for the largest batch that fits, starting from half of that in bfloat16."""
    cfg = step_config(setting, "float32")
    steps = MarkedSteps(cfg)
    size = max(findings.rows[-1]["batch"] // 2, 1)
    while size:
        if add_batch(setting, cfg, steps, findings, size):
            return
        size //= 2


def measure(setting: Setting, findings: Findings) -> None:
    """Measure steps with autocast to bfloat16, then one batch in float32."""
    torch.manual_seed(0)
    with EventStorage(), tf32(True):
        cfg = step_config(setting, "bfloat16")
        steps = MarkedSteps(cfg)
        rising_batches(setting, cfg, steps, findings)
        note_waits(setting, cfg, steps, findings)
        del steps
        free_memory()
        if findings.rows and findings.has_time("float32"):
            one_batch_in_float32(setting, findings)
