"""`yolor-d2 predict` with a predictor that computes next to nothing, in a process of its own.

Boxes follow from the pixels, so that a frame too many, too few or at another place is seen. Batches
are marked: a frame's score depends on its place in the batch, as rounding does with a real model.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from yolor_d2 import cli
from yolor_d2.commands import predict
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.predictor import FailedInput, to_array

DELAY = float(os.environ.get("STUB_DELAY", "0"))


class StubPredictor:
    """The interface of `BatchPredictor` that the command uses."""

    channels = 3

    def __init__(self, cfg, *, batch_size: int, channel_order: str):
        self.batch_size = batch_size

    def stream(self, sources: Iterable) -> Iterator[Instances | FailedInput]:
        numbered = enumerate(sources)
        while batch := list(itertools.islice(numbered, self.batch_size)):
            time.sleep(DELAY)
            for place, (index, source) in enumerate(batch):
                try:
                    image = to_array(source, "RGB", "RGB")
                except (OSError, ValueError) as error:
                    yield FailedInput(index, str(error))
                    continue
                yield find(image, place)


def find(image: np.ndarray, place: int) -> Instances:
    """As many boxes as the mean of the pixels says, up to three."""
    height, width = image.shape[:2]
    mean = image.mean(dtype=np.float64)
    count = int(mean) % 4
    x, y = mean % (width / 2), mean * 7 % (height / 2)
    boxes = [(x + i, y, min(x + i + width / 3, width), y + height / 3) for i in range(count)]
    return Instances(
        (height, width),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor([0.9 - 0.1 * i - 0.001 * place for i in range(count)]),
        pred_classes=torch.arange(count),
    )


if __name__ == "__main__":
    predict.BatchPredictor = StubPredictor
    sys.exit(cli.main(["predict", "--config-file", "quick/ssss_320_cpu.yaml", *sys.argv[1:]]))
