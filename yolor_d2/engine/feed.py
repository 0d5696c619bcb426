"""Batches from a loader; for a GPU the next one travels while this one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..modeling.batch import StagedBatch
from .random_state import preserved_random_state


@dataclass(frozen=True)
class Fed:
    """A batch.

    Attributes:
        batch: a list of dicts, or what the model's `stage` made of it.
        arrives: on a GPU, when its tensors are there.
        files: names of its images.
        seconds: that loading it took.
    """

    batch: Any
    arrives: torch.cuda.Event | None
    files: list[str | None]
    seconds: float


class Feed:
    """Gives out the batches of a loader.

    Args:
        loader: endless, yields lists of dicts.
        stage: sends a batch to the device, see `YOLOR.stage`; None leaves that to the model.
        device: that of the model. Only for a GPU is anything done ahead.
    """

    def __init__(
        self,
        loader: Iterable,
        stage: Callable[[list[dict]], StagedBatch] | None,
        device: torch.device,
    ):
        self.loader = loader
        self.batches = None
        self.ahead: Fed | None = None
        self.stage = stage if device.type == "cuda" else None
        self.stream = torch.cuda.Stream(device) if self.stage is not None else None

    def fetch(self) -> Fed:
        """Load a batch, and send it."""
        start = time.perf_counter()
        if self.batches is None:
            # A resumed run starts its loader once more, which must not change what is drawn later.
            with preserved_random_state():
                self.batches = iter(self.loader)
        inputs = next(self.batches)
        seconds = time.perf_counter() - start
        files = [x.get("file_name") for x in inputs]
        if self.stage is None:
            return Fed(inputs, None, files, seconds)
        return Fed(*self.send(inputs), files, seconds)

    def send(self, inputs: list[dict]) -> tuple[StagedBatch, torch.cuda.Event]:
        """A batch on its way, and when it will have arrived."""
        with torch.cuda.stream(self.stream):
            return self.stage(inputs), self.stream.record_event()

    def fetch_ahead(self) -> None:
        """Load the next batch now, if it can travel meanwhile."""
        if self.stage is not None:
            try:
                self.ahead = self.fetch()
            except StopIteration:  # of a loader that is not endless
                self.ahead = None

    def take(self) -> Fed:
        """The next batch. Work that is given to the device from now on finds it there."""
        fed, self.ahead = self.ahead or self.fetch(), None
        if fed.arrives is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(fed.arrives)
            for tensor in fed.batch.tensors():
                # Its memory is not given away before this stream is done with it.
                tensor.record_stream(stream)
        return fed
