"""Hooks of the training loop."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as BasePeriodicCheckpointer
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as Scheduler

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
        # The hook is the first of all: between steps run the others.
        if self.trainer.iter - self.trainer.start_iter + 1 >= self.warmup_iter:
            self.trainer.storage.put_scalar("time", self.step_timer.seconds())
            self.total_timer.pause()
        else:
            self.start_time = time.perf_counter()
            self.total_timer.reset()
            self.total_timer.pause()

    def after_train(self) -> None:
        total, steps = time.perf_counter() - self.start_time, self.total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self.warmup_iter
        if count > 0 and steps > 0:
            logger.info("Training speed: %.4f s / iteration over %d", steps / count, count)
        logger.info(
            "Training time: %s (%s on hooks)",
            datetime.timedelta(seconds=int(total)),
            datetime.timedelta(seconds=int(total - steps)),
        )


class LRScheduler(HookBase):
    """Puts the learning rate as "lr" after each iteration and makes the next step of the schedule.

    Args:
        optimizer, scheduler: None takes those of the trainer.
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: Scheduler | None = None):
        self.given = (optimizer, scheduler)

    @property
    def optimizer(self) -> Optimizer:
        return self.given[0] or self.trainer.optimizer

    @property
    def scheduler(self) -> Scheduler:
        return self.given[1] or self.trainer.scheduler

    def before_train(self) -> None:
        self.group = reported_group(self.optimizer)

    def after_step(self) -> None:
        rate = self.optimizer.param_groups[self.group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        logger.info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state)


def reported_group(optimizer: Optimizer) -> int:
    """Index of the parameter group whose learning rate is reported: the largest one.

    If all groups have one parameter each, it is the first of those with the most usual rate.
    """
    groups = optimizer.param_groups
    sizes = [len(group["params"]) for group in groups]
    if max(sizes) > 1:
        return sizes.index(max(sizes))
    rates = [group["lr"] for group in groups]
    return rates.index(Counter(rates).most_common(1)[0][0])


class PeriodicCheckpointer(BasePeriodicCheckpointer, HookBase):
    """Saves a checkpoint every so many iterations, and `model_final` at the end."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class EvalHook(HookBase):
    """Calls a function every so many iterations and after the training, and puts its figures.

    Args:
        eval_period: iterations between calls; 0 calls it after the training only.
        eval_function: returns numbers by name, possibly nested.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None]):
        self.period = eval_period
        self.function = eval_function

    def evaluate(self) -> None:
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
            self.evaluate()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.evaluate()


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

    def after_train(self) -> Any:
        for writer in self.writers:
            writer.write()  # what other hooks found after the training
            writer.close()
