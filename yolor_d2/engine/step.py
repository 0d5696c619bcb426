"""One iteration: the gradients of one batch or several, then one step of the optimiser."""

from __future__ import annotations

import math
import time
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
from .processes import any_process
from .random_state import preserved_random_state

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
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.accumulation = accumulation
        self.precision = precision
        self.clip_norm = clip_norm
        self.device = next(model.parameters()).device
        self.grad_scaler = None
        if precision is torch.float16:
            self.grad_scaler = torch.amp.GradScaler(self.device.type)
        self.batches = None

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Go on with another loader; the old one is given up first."""
        del self.data_loader
        self.data_loader, self.batches = data_loader_builder(), None

    def next_batch(self) -> tuple[list[dict], float]:
        """A batch, and the seconds that it took."""
        start = time.perf_counter()
        if self.batches is None:
            # A resumed run starts its loader once more, which must not change what is drawn later.
            with preserved_random_state():
                self.batches = iter(self.data_loader)
        return next(self.batches), time.perf_counter() - start

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("something has left the model in evaluation mode")
        self.optimizer.zero_grad()
        count = self.accumulation.batches_of(self.iter)
        losses, files, seconds = [], [], 0.0
        for index in range(count):
            batch, waited = self.next_batch()
            with self.own_gradients(is_last=index == count - 1):
                losses.append(self.backward(batch))
            files.append([x.get("file_name") for x in batch])
            seconds += waited
        # Only now: asking for the values waits for the device.
        values = [{name: loss.item() for name, loss in part.items()} for part in losses]
        self.check_finite(values, files)
        self.write_metrics(values, seconds)
        self.step_optimizer()

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
            losses = self.model(batch)
            total = sum(losses.values())
        if self.grad_scaler is not None:
            total = self.grad_scaler.scale(total)
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def check_finite(self, losses: list[dict[str, float]], files: list[list[str | None]]) -> None:
        """Stop all processes before a step that would spoil the weights.

        Args:
            losses: by name, per batch.
            files: images, per batch.

        Raises:
            FloatingPointError: when a loss is not finite in this process or in another, naming the
                terms, the iteration and the images.
        """
        faults = [
            (f"{', '.join(f'{name} = {value}' for name, value in part.items())}; images: {names}")
            for part, names in zip(losses, files)
            if not all(map(math.isfinite, part.values()))
        ]
        (anywhere,) = any_process([bool(faults)], self.device)
        if anywhere:
            raise FloatingPointError(
                f"a loss is not finite at iteration {self.iter}: "
                f"{' | '.join(faults) or 'in another process, which names the images'}"
            )

    def step_optimizer(self) -> None:
        """Clip, then step.

        Raises:
            FloatingPointError: when the norm is not finite and gradients are not scaled.
        """
        scaler = self.grad_scaler
        if self.clip_norm > 0:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            members = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(members, self.clip_norm).item()
            if math.isfinite(norm):
                get_event_storage().put_scalar("grad_norm", norm, cur_iter=self.iter)
            elif scaler is None:
                raise FloatingPointError(
                    f"the norm of the gradients is {norm} at iteration {self.iter}"
                )
        if scaler is None:
            self.optimizer.step()
            return
        scaler.step(self.optimizer)  # not done if a gradient is not finite; the scale then falls
        scaler.update()
        get_event_storage().put_scalar(
            "grad_scale", scaler.get_scale(), smoothing_hint=False, cur_iter=self.iter
        )

    def write_metrics(self, losses: list[dict[str, float]], data_time: float) -> None:
        """Put the losses, their means over batches and processes, the time that loading took, and
        the learning rate and momentum of this step."""
        storage = get_event_storage()
        # Of this process, and the longest of all processes.
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        everywhere = comm.gather({"losses": losses, "data_time": data_time})
        if not comm.is_main_process():
            return
        slowest = max(x["data_time"] for x in everywhere)
        storage.put_scalar("data_time", slowest, cur_iter=self.iter)
        parts = [part for x in everywhere for part in x["losses"]]
        means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        storage.put_scalar("total_loss", sum(means.values()), cur_iter=self.iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=self.iter, **means)
        for index, group in enumerate(self.optimizer.param_groups):
            name = f"lr/{group.get('kind', index)}"
            storage.put_scalar(name, group["lr"], smoothing_hint=False, cur_iter=self.iter)
        if "momentum" in self.optimizer.param_groups[0]:
            momentum = self.optimizer.param_groups[0]["momentum"]
            storage.put_scalar("momentum", momentum, smoothing_hint=False, cur_iter=self.iter)

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
