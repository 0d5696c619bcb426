"""Decoding and NMS of whole batches of generated logits, as behind a trained network.

Few rows are sure, and those of few classes, as in the case "trained" of `benchmark.nms`. The boxes
of one image are compared with those that the CPU finds in the same logits.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ...config import load_config
from ...d2.structures import Instances
from ...modeling import YOLOR
from ..model import build, random_images
from .common import Findings, Setting, config_on, square, time_calls, unless_too_large

MODEL = ("yolor_p6.yaml", 1280)
DRY_MODEL = ("yolor_ssss_s2d.yaml", 64)
BATCHES = (1, 32)
SECONDS = 1.0  # of a measurement
# Far below the score threshold, but a number: the logit of 0 is none.
LEAST_SCORE = 1e-7
# Of two boxes that count as the same, in pixels.
DIFFERENCE = 0.05


def trained_levels(
    model: YOLOR, batch: int, size: int, num_classes: int, dtype: torch.dtype
) -> list[Tensor]:
    """Logits (N, A, H, W, 5 + K) per level, on the model's device.

    Args:
        model: has anchors and strides.
        batch: N.
        size: side of the input in pixels.
        num_classes: K.
        dtype: of the logits.
    """
    generator = torch.Generator(model.device).manual_seed(0)
    levels = []
    for stride in model.strides:
        cells = (batch, model.anchors.shape[1], size // stride, size // stride)
        drawn = torch.rand(
            *cells, 5 + num_classes, generator=generator, device=model.device, dtype=torch.float32
        )
        drawn[..., 4].pow_(16)
        drawn[..., 5:].pow_(60)
        levels.append(drawn.logit_(eps=LEAST_SCORE).to(dtype))
    return levels


def fraction_matched(expected: Instances, actual: Instances) -> float:
    """Fraction of the boxes that another result has too, with their class; in any order, as scores
    may be equal.

    Args:
        wanted: the boxes.
        found: the other result.
    """
    if not len(expected):
        return 1.0
    apart = expected.pred_boxes.tensor[:, None] - actual.pred_boxes.tensor[None]
    same = apart.abs().amax(dim=2) < DIFFERENCE
    same &= expected.pred_classes[:, None] == actual.pred_classes[None]
    return same.any(dim=1).double().mean().item()


def detect_on_cpu(model: YOLOR, levels: list[Tensor], images: list[dict]) -> Instances:
    """Detections of the first image of a batch."""
    model = copy.deepcopy(model).cpu()
    first = [level[:1].cpu() for level in levels]
    return model.forward_inference(first, model.stage(images[:1]))[0]["instances"]


@torch.no_grad()
def time_batch(
    setting: Setting, model: YOLOR, images: list[dict], size: int, dtype: torch.dtype
) -> dict:
    """A row for one batch."""
    batch = model.stage(images)
    num_classes = model.head.num_classes
    levels = trained_levels(model, len(images), size, num_classes, dtype)
    results: list[dict] = []

    def detect() -> None:
        results[:] = model.forward_inference(levels, batch)

    first, seconds = time_calls(detect, setting.clock, 0 if setting.dry else SECONDS)
    wanted = detect_on_cpu(model, levels, images)
    return {
        "logits": str(dtype).split(".")[1],
        "batch": len(images),
        "rows of an image": sum(level[0, ..., 0].numel() for level in levels),
        "ms / batch": 1000 * seconds,
        "ms / image": 1000 * seconds / len(images),
        "boxes of an image": sum(len(x["instances"]) for x in results) / len(images),
        "% as on the CPU": 100 * fraction_matched(wanted, results[0]["instances"].to("cpu")),
        "first call, s": first,
    }


def measure(setting: Setting, findings: Findings) -> None:
    """Measure batches of 1 and 32 with logits of float32 and bfloat16."""
    config, size = DRY_MODEL if setting.dry else MODEL
    cfg = load_config(config, config_on(setting))
    square(cfg, size)
    model = build(cfg)
    (image,) = random_images(cfg, 1, size)
    batches = (1, 2) if setting.dry else BATCHES
    cases = [(batch, dtype) for batch in batches for dtype in (torch.float32, torch.bfloat16)]
    for batch, dtype in findings.while_time(cases):
        row = unless_too_large(
            *(findings, str(dtype), batch, time_batch),
            *(setting, model, [image] * batch, size, dtype),
        )
        if row is not None:
            findings.rows.append(row)
