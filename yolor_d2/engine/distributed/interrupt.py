"""A run that gets a signal to stop finishes its iteration, saves, and ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from ...d2.engine import HookBase
from ...d2.utils import comm
from .processes import any_process

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Schedulers signal all processes of a job, and launchers pass signals on to the processes that they
# have started, which then get one twice. What comes within so many seconds is the same signal.
REPETITION_TIME = 5.0

_repeated = False


def expect_repeated_signals() -> None:
    """To be called where a launcher has started this process."""
    global _repeated
    _repeated = True


class Interrupted(SystemExit):
    """Ends the process, if nobody catches it, with 128 + the signal's number, as shells count."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class InterruptHook(HookBase):
    """Raises `Interrupted` after the iteration in which SIGTERM or SIGINT came.

    To be placed behind everything that belongs to the iteration, and before the evaluation, which
    changes nothing and is left out, or given up if the signal comes while it runs. With several
    processes all stop if one got a signal, and an evaluation is finished, as they share it. A
    second signal has the effect that it had before the training; `restore` brings that back.

    Args:
        before_stop: called by all processes when they are about to stop.
    """

    def __init__(self, before_stop: Callable[[], object] = lambda: None):
        self.before_stop = before_stop
        self.received: int | None = None
        self.received_at = 0.0
        self.evaluating = False
        # Last iteration that was finished by this process, and whether the run ended with it.
        self.finished: int | None = None
        self.completed = False
        self.handlers: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.receive) for number in SIGNALS}

    def receive(self, number: int, _frame: object) -> None:
        if self.received is not None:
            if time.monotonic() - self.received_at >= REPETITION_TIME:
                self.restore()
                os.kill(os.getpid(), number)
            return
        if not _repeated:
            self.restore()
        self.received, self.received_at = number, time.monotonic()
        if self.evaluating and comm.get_world_size() == 1:
            raise Interrupted(number)

    def after_step(self) -> None:
        self.finished = self.trainer.iter
        stops = any_process([self.received == number for number in SIGNALS])
        if any(stops):
            self.before_stop()
        for number, stop in zip(SIGNALS, stops):
            if stop:
                raise Interrupted(number)
        self.completed = self.finished + 1 >= self.trainer.max_iter

    def restore(self) -> None:
        """Give signals back the effect that they had before."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
