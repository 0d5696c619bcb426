"""Metrics of a run: where they are kept, and what writes them to files."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

# Noisy metrics are reported as the median over this many iterations.
WINDOW = 20

logger = logging.getLogger(__name__)

_storages: list[EventStorage] = []


def has_event_storage() -> bool:
    """Whether a storage is open."""
    return bool(_storages)


def get_event_storage() -> EventStorage:
    """The storage that was opened last.

    Raises:
        AssertionError: when none is open.
    """
    if not _storages:
        raise AssertionError("get_event_storage() is called outside of `with EventStorage(...)`")
    return _storages[-1]


class EventStorage:
    """Scalars by name, each with its history. Used as a context, it is the open storage.

    Args:
        start_iter: iteration of the first values.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smooth: dict[str, bool] = {}
        # Name, picture, iteration; until a writer took them.
        self.images: list[tuple[str, torch.Tensor, int]] = []

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a value.

        Args:
            name: "group/name" groups scalars in tensorboard.
            value: what float() takes.
            smoothing_hint: whether it is noisy.
            cur_iter: its iteration; None is the present one.
        """
        iteration = self.iter if cur_iter is None else cur_iter
        value = float(value)
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)
        if self._smooth.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(
                f"scalar {name!r} is given with another smoothing_hint than before"
            )

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **scalars: Any
    ) -> None:
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint, cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        if name not in self._histories:
            raise KeyError(f"there is no scalar {name!r}")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Last value and its iteration, by name."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = WINDOW) -> dict[str, tuple[float, int]]:
        """As `latest`, with the median over a window in place of noisy values."""
        return {
            name: (self.median(name, window_size) if self._smooth[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = WINDOW) -> int:
        """Values in the window of iterations that ends with the last value."""
        iterations = [iteration for _, iteration in self._histories[name].values()[-window_size:]]
        return sum(iteration > iterations[-1] - window_size for iteration in iterations)

    def median(self, name: str, window_size: int = WINDOW) -> float:
        return self._histories[name].median(self.count_samples(name, window_size))

    def put_image(self, name: str, image: torch.Tensor) -> None:
        """Note a picture, (3, H, W) uint8 or floats in 0-1, for tensorboard."""
        self.images.append((name, image, self.iter))

    def clear_images(self) -> None:
        self.images = []

    def __enter__(self) -> EventStorage:
        _storages.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _storages.remove(self)


class EventWriter:
    """Writes metrics of the open storage that are newer than what it wrote before."""

    last = -1

    def write(self) -> None:
        """Write what is new."""

    def close(self) -> None:
        """Nothing comes any more."""

    def take_new(self) -> list[tuple[str, float, int]]:
        """(name, value, iteration) of what was not written yet."""
        latest = get_event_storage().latest_with_smoothing_hint()
        new = [(k, value, i) for k, (value, i) in latest.items() if i > self.last]
        self.last = max([self.last, *(i for *_, i in new)])
        return new


class CommonMetricPrinter(EventWriter):
    """One line of the log: losses, times, learning rate, memory.

    Args:
        max_iter: iterations of the whole run.
    """

    def __init__(self, max_iter: int):
        self.max_iter = max_iter

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self.max_iter:
            return  # what evaluations after the training add has its own lines
        known = storage.histories()
        parts = [f"iter: {storage.iter}"]
        if "time" in known:  # the first iterations are not timed
            seconds = known["time"].median(1000) * (self.max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        parts += [f"{k}: {storage.median(k):.4g}" for k in known if "loss" in k]
        for name in ("time", "data_time"):
            if name in known:
                average = known[name].avg(storage.count_samples(name))
                parts += [f"{name}: {average:.4f}", f"last_{name}: {known[name].latest():.4f}"]
        if "lr" in known:
            parts.append(f"lr: {known['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logger.info("%s", "  ".join(parts))


class JSONWriter(EventWriter):
    """One line of JSON per iteration with something new, appended to a file."""

    def __init__(self, path: str):
        self.path = path

    def write(self) -> None:
        rows: dict[int, dict] = defaultdict(dict)
        for name, value, iteration in self.take_new():
            rows[iteration][name] = value
        with open(self.path, "a", encoding="utf-8") as file:
            for iteration, row in rows.items():
                file.write(json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n")


class TensorboardXWriter(EventWriter):
    """Event files for tensorboard, which is imported with the first value."""

    def __init__(self, folder: str):
        self.folder = folder
        self.writer = None

    def write(self) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder)
        for name, value, iteration in self.take_new():
            self.writer.add_scalar(name, value, iteration)
        storage = get_event_storage()
        for name, image, iteration in storage.images:
            self.writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def default_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """The log, metrics.json and tensorboard's event file."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
