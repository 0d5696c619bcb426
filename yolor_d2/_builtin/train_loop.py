"""The training loop: hooks around steps."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .events import EventStorage, get_event_storage

logger = logging.getLogger(__name__)


class HookBase:
    """Something that happens at fixed places of the training; `trainer` is set on registration."""

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, or when the training ends with an error."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this hook."""
        return {}


class TrainerBase:
    """Iterations with hooks."""

    def __init__(self):
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # no cycle that keeps both in memory
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        logger.info("Training iterations %d to %d", start_iter, max_iter - 1)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.call_hooks("before_train")
                while self.iter < max_iter:
                    self.storage.iter = self.iter
                    self.call_hooks("before_step")
                    self.run_step()
                    self.call_hooks("after_step")
                    self.iter += 1
            except Exception:
                logger.exception("The training stops at iteration %d", self.iter)
                raise
            finally:
                self.storage.iter = self.iter
                self.call_hooks("after_train")

    def call_hooks(self, method: str) -> None:
        for hook in self._hooks:
            getattr(hook, method)()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict:
        state: dict = {"iteration": self.iter}
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            kept = hook.state_dict()
            if kept:
                hooks.setdefault(type(hook).__qualname__, kept)  # the first of a class
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state: dict) -> None:
        self.iter = state["iteration"]
        for name, kept in state.get("hooks", {}).items():
            owners = [hook for hook in self._hooks if type(hook).__qualname__ == name]
            if owners:
                owners[0].load_state_dict(kept)
            else:
                logger.warning("No hook %r is registered: its state is ignored", name)


class SimpleTrainer(TrainerBase):
    """One batch, one backward pass, one step of the optimiser.

    Args:
        model: maps a batch to a dict of losses, which are summed; put into training mode.
        data_loader: endless.
        optimizer: steps after each batch.
    """

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: Optimizer):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.batches = None

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Go on with another loader; the old one is given up first."""
        del self.data_loader
        self.data_loader, self.batches = data_loader_builder(), None

    def next_batch(self) -> tuple[list, float]:
        """A batch, and the seconds that it took."""
        if not self.model.training:
            raise AssertionError("something put the model into evaluation mode")
        start = time.perf_counter()
        if self.batches is None:
            self.batches = iter(self.data_loader)
        return next(self.batches), time.perf_counter() - start

    def run_step(self) -> None:
        batch, seconds = self.next_batch()
        losses = self.model(batch)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.write_metrics(losses, seconds)
        self.optimizer.step()

    def write_metrics(self, losses: dict[str, Tensor], data_time: float) -> None:
        """Put the losses and the time that loading took.

        Raises:
            FloatingPointError: when the sum of losses is not finite.
        """
        storage = get_event_storage()
        values = {name: loss.detach().cpu().item() for name, loss in losses.items()}
        # Of this process, and the longest of all processes.
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        storage.put_scalar("data_time", data_time, cur_iter=self.iter)
        total = sum(values.values())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the sum of losses is {total} at iteration {self.iter}: {values}"
            )
        storage.put_scalar("total_loss", total, cur_iter=self.iter)
        if len(values) > 1:
            storage.put_scalars(cur_iter=self.iter, **values)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in half precision on a GPU, with scaled gradients."""

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: Optimizer):
        if not torch.cuda.is_available():
            raise AssertionError("SOLVER.AMP.ENABLED is True, but torch finds no GPU")
        super().__init__(model, data_loader, optimizer)
        self.grad_scaler = torch.amp.GradScaler("cuda")

    def run_step(self) -> None:
        batch, seconds = self.next_batch()
        with torch.autocast("cuda", dtype=torch.float16):
            losses = self.model(batch)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self.write_metrics(losses, seconds)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.grad_scaler.load_state_dict(state["grad_scaler"])
