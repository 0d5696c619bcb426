"""How long an evaluation takes, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..d2.evaluation import DatasetEvaluator

# The stages in the order in which an image goes through them.
STAGES = {
    "loading": "waiting for the loader, which reads and resizes",
    "preprocess": "to the device, padding, normalising",
    "network": "backbone, neck and head",
    "postprocess": "decoding, NMS, scaling boxes to the image",
    "recording": "what the evaluators keep of it",
}
# Batches at the beginning that are not counted, as in Detectron2's own measurement.
WARM_UP = 5


class StageTimer(DatasetEvaluator):
    """Measures the stages of `inference_on_dataset`, as the last of its evaluators.

    Args:
        model: what is evaluated. Of a `YOLOR`, bare, wrapped for several processes or by test-time
            augmentation, all stages are distinguished; other models count as network alone.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        inner = getattr(model, "module", model)
        self.inner = getattr(inner, "model", inner)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.reset()

    def reset(self) -> None:
        self.batches: list[tuple[int, dict[str, float]]] = []
        self.current = dict.fromkeys(STAGES, 0.0)
        self.depth = 0
        self.mark = self.now()

    def now(self) -> float:
        """Seconds, when the GPU has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside this context the model's calls are measured."""
        # Methods of this instance are covered for a while: hooks on modules would become part of
        # what torch.compile compiles.
        covered = dict.fromkeys(("stage", "preprocess"), "preprocess")
        covered |= dict.fromkeys(("forward_inference", "passing_rows", "detect"), "postprocess")
        covered = {name: stage for name, stage in covered.items() if hasattr(self.inner, name)}
        handles = [
            self.model.register_forward_pre_hook(self.begin),
            self.model.register_forward_hook(self.end),
        ]
        for name, stage in covered.items():
            setattr(self.inner, name, self.measured(getattr(self.inner, name), stage))
        try:
            yield
        finally:
            for name in covered:
                delattr(self.inner, name)
            for handle in handles:
                handle.remove()

    def measured(self, method: Callable, stage: str) -> Callable:
        def call(*args, **kwargs):
            if self.depth:  # called by another one, which is measured
                return method(*args, **kwargs)
            self.depth += 1
            start = self.now()
            try:
                return method(*args, **kwargs)
            finally:
                self.current[stage] += self.now() - start
                self.depth -= 1

        return call

    def begin(self, *_) -> None:
        now = self.now()
        self.current["loading"] += now - self.mark
        self.mark = now

    def end(self, *_) -> None:
        now = self.now()
        inside = self.current["preprocess"] + self.current["postprocess"]
        self.current["network"] += now - self.mark - inside
        self.mark = now

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        now = self.now()
        self.current["recording"] += now - self.mark
        self.batches.append((len(inputs), self.current))
        self.current = dict.fromkeys(STAGES, 0.0)
        self.mark = self.now()

    def evaluate(self) -> None:
        """No metrics: times are no result of the model."""

    def summary(self) -> dict | None:
        """Mean of each stage in milliseconds for an image, and how many images that is about.

        Returns:
            None without images.
        """
        counted = self.batches[min(WARM_UP, max(len(self.batches) - 1, 0)) :]
        images = sum(number for number, _ in counted)
        if not images:
            return None
        means = {
            stage: 1000 * sum(times[stage] for _, times in counted) / images for stage in STAGES
        }
        return {"images": images, "milliseconds": means}
