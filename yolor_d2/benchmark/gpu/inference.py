"""Images per second of the network, beside what the device reaches in a product of matrices.

From normalised pixels to logits, norms and implicit knowledge folded. The batch rises as long as
that brings images per second; other memory layouts and compiled networks take the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...config import load_config
from ...d2.config import CfgNode
from ...modeling import YOLOR
from ...modeling.complexity import config_complexity
from ...modeling.inference import DTYPES
from ..model import build, build_variant, forward_pass, matrix_product, random_images
from .common import (
    Findings,
    Setting,
    config_on,
    free_memory,
    square,
    tf32,
    time_calls,
    unless_too_large,
    watch_memory,
)

MODELS = (("yolor_p6.yaml", 1280), ("yolor_ssss_s2d.yaml", 640))
DRY_MODELS = (("yolor_ssss_s2d.yaml", 64),)
TYPES = ("bfloat16", "float16", "float32")
EAGER = "fused+channels_last"
CONTIGUOUS = "fused"
COMPILED = "fused+channels_last+compile"
# A larger batch must bring this much more images per second for the next one to be tried.
LEAST_RISE = 1.03
LARGEST_EXPONENT = 11  # batches of up to 2^10 images
SECONDS = 0.4  # of a measurement
# Compiling P6 takes longer than anything else here: what must be left to begin with it.
COMPILE_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """A model at a size.

    Attributes:
        name: of its variant.
        cfg: its configuration.
        model: with random weights.
        size: side of the images.
        flops: floating-point operations of an image.
    """

    name: str
    cfg: CfgNode
    model: YOLOR
    size: int
    flops: int


def build_case(setting: Setting, config: str, size: int) -> Case:
    """The model of a configuration at a size."""
    cfg = load_config(config, config_on(setting))
    square(cfg, size)
    flops = 2 * config_complexity(cfg, size, folded=True)["total"].macs
    return Case(cfg.MODEL.YOLOR.VARIANT, cfg, build(cfg), size, flops)


def matrix_peaks(setting: Setting) -> dict[str, float]:
    """Floating-point operations per second in a product of large square matrices, by type."""
    peaks = {}
    for name in types(setting):
        product, operations = matrix_product(DTYPES[name], setting.clock)
        _, seconds = time_calls(product, setting.clock, SECONDS)
        peaks[name] = operations / seconds
    return peaks


def types(setting: Setting) -> list[str]:
    """The types that the device has for networks."""
    return [x for x in TYPES if x != "float16" or setting.device.type == "cuda"]


def shown(name: str) -> str:
    """A type as the table names it."""
    return "float32 (TF32)" if name == "float32" else name


def time_batch(setting: Setting, case: Case, variant: YOLOR, batch: int) -> dict:
    """A row for one size of the batch."""
    (image,) = random_images(case.cfg, 1, case.size)
    memory = watch_memory(setting)
    first, seconds = time_calls(
        forward_pass(variant, [image] * batch), setting.clock, 0 if setting.dry else SECONDS
    )
    return {
        "batch": batch,
        "ms / batch": 1000 * seconds,
        "images / s": batch / seconds,
        "peak MiB": memory(),
        "first call, s": first,
    }


class Measurement:
    """Rows of all models, types and ways, beside the peaks of the types.

    Args:
        setting: of the part.
        found: receives the rows.
    """

    def __init__(self, setting: Setting, findings: Findings):
        self.setting = setting
        self.findings = findings
        self.peaks = matrix_peaks(setting)
        models = DRY_MODELS if setting.dry else MODELS
        self.cases = [build_case(setting, config, size) for config, size in models]
        # Batch with the most images per second, by variant and type.
        self.best: dict[tuple[str, str], int] = {}

    def try_batch(self, case: Case, name: str, way: str, variant: YOLOR, batch: int) -> dict | None:
        """A row; None when the batch is too large.

        Args:
            case: the model.
            name: of the type.
            way: words of `benchmark.model`.
            variant: the model in that type, computed in that way.
            batch: images.
        """
        what = f"{case.name} {name} {way}"
        row = unless_too_large(
            *(self.findings, what, batch, time_batch, self.setting, case, variant, batch)
        )
        if row is None:
            return None
        percent = 100 * row["images / s"] * case.flops / self.peaks[name]
        place = {"model": case.name, "size": case.size, "type": shown(name), "way": way}
        return {**place, **row, "% of matrix peak": percent}

    def search(self, case: Case, name: str) -> None:
        """Add rows for batch 1 and for the best batch, and remember that."""
        variant = variant_of(case, name, EAGER)
        rows: list[dict] = []
        for exponent in range(2 if self.setting.dry else LARGEST_EXPONENT):
            row = self.try_batch(case, name, EAGER, variant, 2**exponent)
            if row is None:
                break
            rows.append(row)
            rises = len(rows) == 1 or row["images / s"] >= LEAST_RISE * rows[-2]["images / s"]
            if not rises or not self.findings.has_time(f"{case.name} {name}, larger batches"):
                break
        if rows:
            best = max(rows, key=lambda row: row["images / s"])
            self.best[case.name, name] = best["batch"]
            self.findings.rows += [row for row in rows if row is rows[0] or row is best]

    def repeat(self, case: Case, name: str, way: str, batch: int) -> None:
        """Add a row of another way."""
        # Else compiling for a second size would be compiling for any size.
        torch.compiler.reset()
        row = self.try_batch(case, name, way, variant_of(case, name, way), batch)
        if row is not None:
            self.findings.rows.append(row)
        free_memory()

    def batches(self, case: Case, name: str) -> list[int]:
        """The best batch that `search` found, and 1."""
        return list(dict.fromkeys([self.best.get((case.name, name), 1), 1]))


def variant_of(case: Case, name: str, way: str) -> YOLOR:
    """The model in a type, computed in a way."""
    words = way if name == "float32" else f"{way}+{name}"
    return build_variant(case.model, case.cfg, words)


def measure(setting: Setting, findings: Findings) -> None:
    """Measure eager networks of all models, then compiled ones while there is time."""
    with tf32(True):
        measurement = Measurement(setting, findings)
        peaks = [f"{shown(x)} {peak / 1e12:.4g}" for x, peak in measurement.peaks.items()]
        costs = [f"{x.name} at {x.size} {x.flops / 1e9:.4g}" for x in measurement.cases]
        findings.notes.append(f"Matrix peak in TFLOP / s: {', '.join(peaks)}.")
        findings.notes.append(f"GFLOP of an image: {', '.join(costs)}.")
        for case in measurement.cases:
            for name in findings.while_time(types(setting)):
                measurement.search(case, name)
                free_memory()
                for batch in measurement.batches(case, name):
                    measurement.repeat(case, name, CONTIGUOUS, batch)
        if setting.dry:
            findings.leave_out("compiled networks", "a dry run compiles nothing")
            return
        waiting = {
            f"{case.name} {name} compiled, batch {batch}": (case, name, COMPILED, batch)
            for name in types(setting)
            # The small model first: it takes less time to compile.
            for case in reversed(measurement.cases)
            for batch in measurement.batches(case, name)
        }
        for label in findings.while_time(waiting, reserve=COMPILE_SECONDS):
            measurement.repeat(*waiting[label])
