"""Hooks of the training loop."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Sequence

from fvcore.common.checkpoint import PeriodicCheckpointer as BasePeriodicCheckpointer
from fvcore.common.timer import Timer

from .evaluation import flatten_results
from .events import EventWriter
from .train_loop import HookBase

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Puts the seconds of each iteration as "time", and sums up at the end.

    Args:
        warmup_iter: the first iterations, which are slower, are left out.
    """

    def __init__(self, warmup_iter: int = 3):
        self.warmup_iter = warmup_iter
        self.step_timer = Timer()
        self.total_timer = Timer()
        self.start_time = time.perf_counter()

    def before_train(self) -> None:
        self.start_time = time.perf_counter()
        self.total_timer.reset()
        self.total_timer.pause()

    def before_step(self) -> None:
        self.step_timer.reset()
        self.total_timer.resume()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 >= self.warmup_iter:
            self.trainer.storage.put_scalar("time", self.step_timer.seconds())
        # The hook is the first of all: between steps run the others.
        self.total_timer.pause()

    def after_train(self) -> None:
        times = (time.perf_counter() - self.start_time, self.total_timer.seconds())
        total, steps = (datetime.timedelta(seconds=round(seconds)) for seconds in times)
        logger.info("Training took %s, of which steps %s, the rest hooks", total, steps)


class LRScheduler(HookBase):
    """Steps the trainer's schedule after each iteration.

    It puts the learning rate of the group with the most parameters as "lr".
    """

    def after_step(self) -> None:
        group = max(self.trainer.optimizer.param_groups, key=lambda group: len(group["params"]))
        self.trainer.storage.put_scalar("lr", group["lr"], smoothing_hint=False)
        self.trainer.scheduler.step()

    def state_dict(self) -> dict:
        return self.trainer.scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.trainer.scheduler.load_state_dict(state)


class PeriodicCheckpointer(BasePeriodicCheckpointer, HookBase):
    """Saves a checkpoint every so many iterations, and `model_final` at the end."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class EvalHook(HookBase):
    """Calls a function every so many iterations and after the training, and puts its metrics.

    Args:
        eval_period: iterations between calls; 0 calls it after the training only.
        eval_function: returns numbers by name, possibly nested.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None]):
        self.period = eval_period
        self.function = eval_function

    def _do_eval(self) -> None:
        results = self.function()
        if not results:
            return
        flat = flatten_results(results)
        for name, value in flat.items():
            try:
                flat[name] = float(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"result {name!r} of the evaluation is {value!r}") from error
        self.trainer.storage.put_scalars(**flat, smoothing_hint=False)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()


class PeriodicWriter(HookBase):
    """Lets writers write every so many iterations, at the last one, and after the training.

    Args:
        writers: see `events`.
        period: iterations in between.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        self.writers = writers
        self.period = period

    def write(self) -> None:
        for writer in self.writers:
            writer.write()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.write()

    def after_train(self) -> None:
        self.write()  # what other hooks found after the training
        for writer in self.writers:
            writer.close()
