"""`yolor-d2 predict` with a predictor that computes next to nothing, in processes of their own.

Standard input has a line of JSON a run: its arguments, and maybe a signal that it sends itself
after so many images and frames; standard output gets how it ended. The runs are forked of one
process, as importing takes longer than any of them.

Boxes follow from the pixels, so that a frame too many, too few or at another place is seen. Scores
depend on the place in the batch, as rounding does with a real model.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from yolor_d2 import cli
from yolor_d2.commands import predict
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.ops.masks import BoxMasks, MaskPiece
from yolor_d2.predictor import FailedInput, to_array

CONFIG = ("--config-file", "quick/ssss_320_cpu.yaml")


class StubPredictor:
    """The interface of `BatchPredictor` that the command uses."""

    channels = 3
    seen = 0
    kill_after: int | None = None
    kill_signal = signal.SIGKILL
    report_memory = 0  # every so many frames

    def __init__(self, cfg, *, batch_size: int, channel_order: str):
        self.batch_size = batch_size
        tasks = cfg.MODEL.YOLOR.TASKS
        self.masks = tasks.MASKS.ENABLED
        self.points = tasks.KEYPOINTS.NUM_KEYPOINTS if tasks.KEYPOINTS.ENABLED else 0

    def stream(self, sources: Iterable) -> Iterator[Instances | FailedInput]:
        numbered = enumerate(sources)
        while batch := list(itertools.islice(numbered, self.batch_size)):
            for place, (index, source) in enumerate(batch):
                self.count()
                try:
                    image = to_array(source, "RGB", "RGB")
                except (OSError, ValueError) as error:
                    yield FailedInput(index, str(error))
                    continue
                yield self.with_shapes(find(image, place))

    def with_shapes(self, found: Instances) -> Instances:
        """With the upper left half of each box as its mask, and its upper corners as keypoints."""
        boxes = found.pred_boxes.tensor
        if self.masks:
            half = (1.1 - torch.arange(4)[:, None] / 2 - torch.arange(4) / 2).float()
            pieces = [[MaskPiece(half, tuple(x), tuple(x))] for x in boxes.tolist()]
            found.pred_masks = BoxMasks(pieces, found.image_size)
        if self.points:
            score = found.scores
            corners = [torch.stack([boxes[:, i], boxes[:, 1], score], dim=1) for i in (0, 2)]
            found.pred_keypoints = torch.stack(corners[: self.points], dim=1)
        return found

    def count(self) -> None:
        if self.seen == self.kill_after:
            os.kill(os.getpid(), self.kill_signal)
        StubPredictor.seen += 1
        if self.report_memory and self.seen % self.report_memory == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"memory {self.seen} {peak:.1f}", flush=True)


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


def run(order: dict) -> int:
    """What a child does: the command, as a shell would run it."""
    StubPredictor.kill_after = order.get("kill_after")
    StubPredictor.kill_signal = getattr(signal, order.get("signal", "SIGKILL"))
    StubPredictor.report_memory = order.get("report_memory", 0)
    return cli.main(["predict", *CONFIG, *order["arguments"]])


def fork(order: dict) -> dict:
    """Run it in a child; returns its exit status, negative after a signal, and what it printed."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 99
            try:
                code = run(order)
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return {"code": os.waitstatus_to_exitcode(status), "text": text}


if __name__ == "__main__":
    predict.BatchPredictor = StubPredictor
    # Under a terminal's Ctrl-C only; a shell in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)
