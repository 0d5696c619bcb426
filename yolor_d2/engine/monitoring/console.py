"""What a training shows on the screen: one line of progress, and what is worth knowing.

Everything else, such as the configuration and tables, goes to the log file alone.
"""

from __future__ import annotations

import datetime
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable

import torch

from ...d2.utils import CommonMetricPrinter, EventWriter, get_event_storage
from ...files.images import ImageReadError
from .time_left import TrainingClock

# That of the runtime's own lines, which users' scripts have set up.
logger = logging.getLogger(CommonMetricPrinter.__module__)

# Seconds between two states of the line on a terminal.
REFRESH_SECONDS = 0.5
# Mark of a record that is the line of progress.
PROGRESS = "is_progress"
# Mark of a record for the log file alone.
FOR_FILE = "is_for_file"
# Whose information is for the log file alone: what a runtime says of itself, and tables of metrics.
FILE_ONLY = ("detectron2", "yolor_d2._builtin", "yolor_d2.evaluation")
# What of it the screen has nevertheless: how far an evaluation is.
SHOWN_BEGINNING = "Inference done "
# An evaluation is run for its tables, and for what they were computed with.
EVALUATION = ("yolor_d2.evaluation", "yolor_d2._builtin.evaluation", "detectron2.evaluation")
GIB = 2**30


def is_below(name: str, parents: Iterable[str]) -> bool:
    """Whether a logger is one of others, or below one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


class ScreenHandler(logging.Handler):
    """Writes to what is sys.stdout at that time; on a terminal the line of progress is rewritten.

    Args:
        evaluates: the process evaluates and does not train; tables of metrics are shown.
    """

    # Of all handlers together: whether they have the screen, and whether a line of progress stands
    # there, to be taken away.
    in_use = False
    line_stands = False

    def __init__(self, *, evaluates: bool = False):
        super().__init__(logging.DEBUG)
        self.evaluates = evaluates

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(super().filter(record)) and self.shows(record)

    def shows(self, record: logging.LogRecord) -> bool:
        """Whether a record is for the screen too."""
        if record.levelno >= logging.WARNING or getattr(record, PROGRESS, False):
            return True
        if getattr(record, FOR_FILE, False):
            return self.evaluates
        if str(record.msg).startswith(SHOWN_BEGINNING):
            return True
        if self.evaluates and is_below(record.name, EVALUATION):
            return True
        return not is_below(record.name, FILE_ONLY)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if getattr(record, PROGRESS, False) and sys.stdout.isatty():
                show_line(record.getMessage())
                return
            text = self.format(record)
            information = record.levelno < logging.WARNING
            if information and not (self.evaluates and is_below(record.name, EVALUATION)):
                text = first_line(text)
            remove_line()
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except Exception:
            self.handleError(record)


def first_line(text: str) -> str:
    """The first line of a message; where there are more, it says so."""
    line, *rest = text.rstrip("\n").split("\n")
    return f"{line.rstrip(':')} ({len(rest)} lines in log.txt)" if rest else line


def show_line(text: str) -> None:
    """Put a line in place of the one that stands there, cut at the width of the terminal."""
    width = shutil.get_terminal_size().columns - 1
    sys.stdout.write(f"\r\x1b[K{text[:width]}")
    sys.stdout.flush()
    ScreenHandler.line_stands = True


def remove_line() -> None:
    """Make room for another line."""
    if ScreenHandler.line_stands:
        sys.stdout.write("\r\x1b[K")
        ScreenHandler.line_stands = False


def keep_line() -> None:
    """Let the line of progress stand, and go on below it."""
    if ScreenHandler.line_stands:
        sys.stdout.write("\n")
        sys.stdout.flush()
        ScreenHandler.line_stands = False


def take_over_screen(loggers: Iterable[logging.Logger], *, evaluates: bool) -> None:
    """Let the loggers that write to the standard output write what belongs there.

    Args:
        loggers: of the runtime and of this project.
        evaluates: see `ScreenHandler`.
    """
    for owner in loggers:
        for handler in [*owner.handlers]:
            if isinstance(handler, ScreenHandler):
                handler.evaluates = evaluates
            elif isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                ours = ScreenHandler(evaluates=evaluates)
                ours.setFormatter(handler.formatter)
                owner.removeHandler(handler)
                owner.addHandler(ours)
                ScreenHandler.in_use = True


def as_time(seconds: float) -> str:
    """Such as 1 day, 2:03:04."""
    return str(datetime.timedelta(seconds=round(seconds)))


class ProgressPrinter(EventWriter):
    """The line of progress: epoch, iteration, time left, losses, speed, learning rate, memory.

    What matters most goes first, as a narrow terminal shows no more.

    It takes the place of the runtime's own lines, and puts the same value `eta_seconds`.

    Args:
        clock: what is left.
        epochs: the number of epochs after a number of iterations; None if that is not known.
    """

    def __init__(self, clock: TrainingClock, epochs: Callable[[int], float] | None = None):
        self.clock = clock
        self.epochs = epochs
        self.shown_at = -float("inf")

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        if done > self.clock.max_iter:
            return  # what evaluations after the training add has lines of its own
        left = self.clock.left(done)
        if left is not None:
            storage.put_scalar("eta_seconds", left.seconds, smoothing_hint=False)
        logger.info("%s", self.describe(done), extra={PROGRESS: True})

    def refresh(self, done: int) -> None:
        """Show the line on a terminal, if it is time and nobody else writes there."""
        if not ScreenHandler.in_use:
            return
        if time.monotonic() - self.shown_at >= REFRESH_SECONDS and sys.stdout.isatty():
            self.shown_at = time.monotonic()
            show_line(self.describe(done))

    def describe(self, done: int) -> str:
        """The line after so many iterations."""
        storage = get_event_storage()
        known = storage.histories()

        def median(name: str) -> float:
            return known[name].median(storage.count_samples(name, 20))

        parts = []
        if self.epochs is not None:
            parts.append(f"epoch {self.epochs(done):.1f}/{self.epochs(self.clock.max_iter):.1f}")
        parts.append(f"iteration {done}/{self.clock.max_iter}")
        left = self.clock.left(done)
        if left is not None:
            more = "s" if left.unmeasured > 1 else ""
            later = f" and {left.unmeasured} evaluation{more}" if left.unmeasured else ""
            parts.append(f"time left {as_time(left.seconds)}{later}")
        if "total_loss" in known:
            terms = [name for name in known if name.startswith("loss_")]
            each = ", ".join(f"{name.removeprefix('loss_')} {median(name):.3g}" for name in terms)
            parts.append(f"loss {median('total_loss'):.4g}{f' ({each})' if each else ''}")
        seconds = self.clock.seconds_per_iteration
        if seconds is not None:
            waiting = f" (data {median('data_time'):.3f} s)" if "data_time" in known else ""
            parts.append(f"{seconds:.3g} s/iteration{waiting}")
        if "lr" in known:
            parts.append(f"learning rate {known['lr'].latest():.4g}")
        if torch.cuda.is_available():
            parts.append(f"GPU memory {torch.cuda.max_memory_allocated() / GIB:.1f} GiB")
        return "  ".join(parts)

    def close(self) -> None:
        keep_line()


def shorten_error(record: logging.LogRecord) -> bool:
    """Take the traceback off a line in the log about what the user can mend.

    That is an image that cannot be read, a loss that is not finite, or a full disk.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ImageReadError | FloatingPointError | OSError):
        record.msg, record.args = f"{record.getMessage()} {error}", ()
        record.exc_info = record.exc_text = None
    return True


def describe_metrics(results: dict) -> str:
    """The first metrics of each task in one line; in percent, as evaluators give them."""
    several = results and all(
        isinstance(value, dict) for tasks in results.values() for value in tasks.values()
    )
    by_name = results if several else {"": results}
    parts = []
    for name, tasks in by_name.items():
        for task, metrics in tasks.items():
            shown = [f"{key} {value:.2f} %" for key, value in list(metrics.items())[:2]]
            parts.append(f"{' '.join(filter(None, (name, task)))} {', '.join(shown)}")
    return "; ".join(parts) or "no metrics, as there is no ground truth"
