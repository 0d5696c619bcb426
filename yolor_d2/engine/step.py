"""One iteration: the gradients of one batch or several, then one step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..d2.config import CfgNode
from ..d2.engine import TrainerBase
from ..d2.utils import comm, get_event_storage
from ..data.accumulation import Accumulation
from .distributed.progress import progress
from .feed import Feed
from .readout import Readout, StepMetrics

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def precision_from_config(cfg: CfgNode) -> torch.dtype | None:
    """What autocast computes in; None without SOLVER.AMP.ENABLED.

    Raises:
        ValueError: when SOLVER.AMP.DTYPE is unknown, or needs a GPU and MODEL.DEVICE is none.
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name not in PRECISIONS:
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}, expected one of {sorted(PRECISIONS)}")
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if name == "float16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"SOLVER.AMP.ENABLED with SOLVER.AMP.DTYPE 'float16' needs a GPU, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}: set SOLVER.AMP.DTYPE to 'bfloat16', or SOLVER.AMP.ENABLED to "
            "False"
        )
    return PRECISIONS[name]


class StepTrainer(TrainerBase):
    """Takes the place of Detectron2's SimpleTrainer and AMPTrainer, whose state it shares.

    On the CPU the numbers of an iteration are read before its step. For a GPU that would leave
    nothing to do while the host prepares the next one: there they are read one iteration late, and
    by `read_all` before anything is saved, so that what a loss that is not finite has spoiled never
    is. What the processes have measured is gathered by `settle`.

    Args:
        model: maps a batch to a dict of losses, which are summed; put into training mode.
        data_loader: endless.
        optimizer: steps once an iteration.
        accumulation: batches per iteration. Their gradients are summed.
        precision: what autocast computes in, None for no autocast. Gradients of float16 are scaled.
        clip_norm: greatest norm of all gradients together, 0 for any.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        *,
        accumulation: Accumulation = Accumulation(),
        precision: torch.dtype | None = None,
        clip_norm: float = 0.0,
    ):
        super().__init__()
        if clip_norm < 0:
            raise ValueError(f"SOLVER.CLIP_NORM is {clip_norm}, expected 0 (off) or more")
        model.train()
        self.model = model
        self.bare = getattr(model, "module", model)  # without its wrapper for several processes
        self.bare.follows_recipe = True
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.accumulation = accumulation
        self.precision = precision
        self.clip_norm = clip_norm
        self.device = next(model.parameters()).device
        self.grad_scaler = None
        if precision is torch.float16:
            self.grad_scaler = torch.amp.GradScaler(self.device.type)
        self.reads_late = self.device.type == "cuda"
        self.unread: list[Readout] = []
        self.metrics: list[StepMetrics] = []
        self.feed = self.build_feed(data_loader)

    def build_feed(self, data_loader: Iterable) -> Feed:
        return Feed(data_loader, getattr(self.bare, "stage", None), self.device)

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Switch to another loader; the old one is closed first."""
        del self.data_loader, self.feed
        self.data_loader = data_loader_builder()
        self.feed = self.build_feed(self.data_loader)

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("something has left the model in evaluation mode")
        self.optimizer.zero_grad()
        count = self.accumulation.batches_of(self.iter)
        losses, files, seconds = [], [], 0.0
        for index in range(count):
            progress.stage("loading data")
            fed = self.feed.take()
            with self.own_gradients(is_last=index == count - 1):
                losses.append(self.backward(fed.batch))
            files.append(fed.files)
            seconds += fed.seconds
        progress.stage("step")
        norm = self.clip_gradients()
        self.unread.append(
            Readout(
                self.iter,
                losses,
                files,
                positives=getattr(self.bare, "positives", None),
                norm=norm,
                norm_may_overflow=self.grad_scaler is not None,
                seconds=seconds,
                rates=self.rates(),
            )
        )
        if not self.reads_late:
            self.read_all()
        self.step_optimizer()
        self.feed.fetch_ahead()
        self.read_all(but=1)

    def own_gradients(self, *, is_last: bool) -> AbstractContextManager:
        """Processes exchange gradients with the last batch of an iteration, which has their sum."""
        if is_last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def backward(self, batch: list[dict]) -> dict[str, Tensor]:
        """Add the gradients of a batch; its losses, which need no graph any more."""
        half = nullcontext()
        if self.precision is not None:
            half = torch.autocast(self.device.type, dtype=self.precision)
        with half:
            progress.stage("forward")
            losses = self.model(batch)
            total = sum(losses.values())
        if self.grad_scaler is not None:
            total = self.grad_scaler.scale(total)
        progress.stage("gradients")
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def clip_gradients(self) -> Tensor | None:
        """The norm that the gradients had, 0-dim, without waiting for it; None without clipping."""
        if self.clip_norm == 0:
            return None
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        members = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(members, self.clip_norm)

    def step_optimizer(self) -> None:
        """Step, with scaled gradients only if all of them are finite; the scale falls otherwise."""
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if not self.reads_late:
            self.write_scale()

    def rates(self) -> dict[str, float]:
        """Learning rates of the groups, and the momentum."""
        groups = self.optimizer.param_groups
        rates = {f"lr/{group.get('kind', i)}": group["lr"] for i, group in enumerate(groups)}
        if "momentum" in groups[0]:
            rates["momentum"] = groups[0]["momentum"]
        return rates

    def read_all(self, but: int = 0) -> None:
        """Wait for the numbers of all iterations but the last ones.

        Of a single process they are written here, those of several by `settle`.

        Raises:
            FloatingPointError: see `Readout.read`.
        """
        while len(self.unread) > but:
            self.metrics.append(self.unread.pop(0).read())
        if comm.get_world_size() == 1:
            self.write_metrics()

    def settle(self) -> None:
        """Read and write all metrics; to be called by all processes, in the same iteration."""
        self.read_all()
        if comm.get_world_size() > 1:
            self.write_metrics()
        if self.reads_late and self.grad_scaler is not None:
            self.write_scale()

    def write_metrics(self) -> None:
        """Put the losses, their means over batches and processes, the time that loading took,
        positives, the norm of the gradients, and learning rates and momentum of each step."""
        own, self.metrics = self.metrics, []
        if not own:
            return  # nor have the others
        storage = get_event_storage()
        everywhere = comm.gather(own)
        for number, metrics in enumerate(own):
            iteration = metrics.iteration
            # Of this process, and the longest of all processes.
            storage.put_scalar("rank_data_time", metrics.seconds, cur_iter=iteration)
            if comm.is_main_process():
                self.write_step([part[number] for part in everywhere])

    def write_step(self, everywhere: list[StepMetrics]) -> None:
        """Put the metrics of one iteration, of all processes."""
        storage, own = get_event_storage(), everywhere[0]
        parts = [part for x in everywhere for part in x.losses]
        means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        noisy = {"data_time": max(x.seconds for x in everywhere), "total_loss": sum(means.values())}
        if len(means) > 1:
            noisy |= means
        if self.reads_late and own.positives:
            noisy |= self.bare.name_positives(own.positives)
        if own.norm is not None and math.isfinite(own.norm):
            noisy["grad_norm"] = own.norm
        storage.put_scalars(cur_iter=own.iteration, **noisy)
        storage.put_scalars(smoothing_hint=False, cur_iter=own.iteration, **own.rates)

    def write_scale(self) -> None:
        """Put the scale of the gradients, for which the host waits."""
        scale = self.grad_scaler.get_scale()
        get_event_storage().put_scalar(
            "grad_scale", scale, smoothing_hint=False, cur_iter=self.iter
        )

    def state_dict(self) -> dict:
        state = {**super().state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        # The precision may differ from that of the run before.
        if self.grad_scaler is not None and "grad_scaler" in state:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
