"""What the parts have in common: their time limit, their results, and a few helpers."""

from __future__ import annotations

import contextlib
import gc
import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...d2.config import CfgNode
from ..timing import Clock, alternate

T = TypeVar("T")

# The top of a checkout; of an installed package, a folder without tests.
CHECKOUT = Path(__file__).resolve().parents[3]
MIB = 1024**2
# Rounds of a measurement: as many as fit, within these.
FEWEST_ROUNDS, MOST_ROUNDS = 3, 30
MESSAGE = 160  # letters of an error in a note


@dataclass(frozen=True)
class Setting:
    """Settings of all parts.

    Attributes:
        device: what is measured.
        output: folder for files of the parts.
        golden: folder of the golden records.
        dry: small sizes, to try the command without a GPU.
        earlier: rows of the parts that are done, by name.
    """

    device: torch.device
    output: Path
    golden: Path
    dry: bool
    earlier: dict[str, list[dict]] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return Clock(self.device)


@dataclass
class Findings:
    """What a part has found so far; it is kept when the part fails later.

    Attributes:
        seconds: its time limit, which begins now.
        rows: one dict for each measurement.
        notes: sentences that belong to the table.
        left_out: what was not measured, with the reason.
    """

    seconds: float
    rows: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since the part began."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """Seconds of the limit that are left, negative when it is used up."""
        return self.seconds - self.spent

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out.append(f"{what}: {reason}")

    def has_time(self, what: str, reserve: float = 0.0) -> bool:
        """Whether there is time for something, which is noted as left out otherwise.

        Args:
            what: that is to be measured.
            reserve: seconds that must be left to begin with it.
        """
        if self.left > reserve:
            return True
        self.leave_out(what, "no time was left")
        return False

    def while_time(self, items: Iterable[T], reserve: float = 0.0) -> Iterator[T]:
        """The items as long as there is time for one; the others are noted, by their text."""
        waiting = list(items)
        while waiting and self.has_time(", ".join(map(str, waiting)), reserve):
            yield waiting.pop(0)


# ---- State of torch


@contextlib.contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Whether float32 convolutions and products of matrices may round their inputs to TF32."""
    # By the older names: who asks for them after the newer `fp32_precision` was set gets an error,
    # but not the other way round.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def free_memory() -> None:
    """Give memory of the GPU that nothing refers to any more back to it."""
    gc.collect()
    torch.cuda.empty_cache()  # without a GPU, nothing


def unless_too_large(
    findings: Findings, what: str, batch: int, function: Callable[..., T], *args: object
) -> T | None:
    """What the function returns; None, which is noted, when the batch is too large for the GPU.

    In batches of several not only memory may end, but also what its kernels can address; torch has
    no class for that.

    Args:
        found: receives the note.
        what: the measurement, for the note.
        batch: images in the batch.
        function: what to call with `args`.
    """
    try:
        return function(*args)
    except RuntimeError as error:
        if batch == 1 and not isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = textwrap.shorten(str(error), MESSAGE)
    # Only here nothing refers to the tensors of the function any more.
    free_memory()
    findings.leave_out(f"{what}, batch {batch}", reason)
    return None


# ---- Measurements


def time_calls(function: Callable[[], object], clock: Clock, seconds: float) -> tuple[float, float]:
    """Wall time of the first call, which may compile, and the median of some further ones.

    Args:
        function: what to call.
        clock: takes the time.
        seconds: how long the further calls take together, roughly.
    """
    _, first, _ = clock(function)
    _, second, _ = clock(function)
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(seconds / second)))
    samples = alternate({"calls": function}, rounds=rounds, clock=clock)["calls"]
    return first, statistics.median(samples.wall)


def watch_memory(setting: Setting) -> Callable[[], float | None]:
    """A function for the most MiB that torch has had on the GPU since now; None on the CPU."""
    if setting.device.type != "cuda":
        return lambda: None
    torch.cuda.reset_peak_memory_stats()
    return lambda: torch.cuda.max_memory_allocated() / MIB


def watch_losses(model: nn.Module) -> list[Tensor]:
    """A list that receives the sum of the losses of each training pass of a model from now on."""
    sums: list[Tensor] = []

    def note(module: nn.Module, _: tuple, outputs: object) -> None:
        if module.training and isinstance(outputs, dict):
            # No number yet: asking for it would wait for the device in each step.
            sums.append(torch.stack(list(outputs.values())).sum().detach())

    model.register_forward_hook(note)
    return sums


def config_on(setting: Setting, *options: object) -> list[str]:
    """KEY VALUE pairs for `load_config`: the device, and others."""
    return [str(x) for x in ("MODEL.DEVICE", setting.device.type, *options)]


def set_size(cfg: CfgNode, size: int) -> None:
    """Train and evaluate with images whose longer side is this."""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (size,), size
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = size


def square(cfg: CfgNode, size: int) -> None:
    """The same, without a margin on the canvas: of square images it is as large as they."""
    set_size(cfg, size)
    cfg.MODEL.YOLOR.PADDING.PLACE = "corner"
