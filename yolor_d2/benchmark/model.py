"""Time of the network on random images: fused or not, by type, memory layout and batch."""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable

import torch

from ..arguments.benchmark import VARIANT_KEYS
from ..config import load_config
from ..d2.config import CfgNode
from ..d2.modeling import build_model
from ..environment import describe_machine
from ..modeling import YOLOR
from ..modeling.complexity import config_complexity
from ..modeling.inference import DTYPES, prepare_for_inference
from ..predictor import load_model
from . import timing
from .report import Report
from .timing import Clock

ALL_OFF = [
    *("MODEL.INFERENCE.FUSE", False, "MODEL.INFERENCE.CHANNELS_LAST", False),
    *("MODEL.INFERENCE.COMPILE", False, "MODEL.INFERENCE.DTYPE", "float32"),
    *("TEST.AUG.ENABLED", False),
]
# Matrices are doubled in size until their product takes this long, where types are slow to compute.
MATRIX_SECONDS = 0.02
MATRIX_SIDES = {"cpu": (256, 1024), "cuda": (2048, 8192)}


def build(cfg: CfgNode) -> YOLOR:
    """The model of a configuration in evaluation mode; random weights where it names none.

    Raises:
        ValueError: when it is none of this project's, or the weights do not fit.
        FileNotFoundError: when MODEL.WEIGHTS is no file.
    """
    if cfg.MODEL.META_ARCHITECTURE != "YOLOR":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, expected 'YOLOR'"
        )
    return load_model(cfg) if cfg.MODEL.WEIGHTS else build_model(cfg).eval()


def build_variant(model: YOLOR, cfg: CfgNode, variant: str) -> YOLOR:
    """The model as a variant computes it.

    Raises:
        ValueError: when a word of the variant is unknown.
    """
    cfg = cfg.clone()
    cfg.merge_from_list(ALL_OFF)
    for word in variant.split("+"):
        if word not in VARIANT_KEYS:
            raise ValueError(
                f"--variants has {variant!r}, expected words of {list(VARIANT_KEYS)} joined by +"
            )
        cfg.merge_from_list(VARIANT_KEYS[word])
    prepared = prepare_for_inference(model, cfg)
    assert isinstance(prepared, YOLOR)  # no test-time augmentation
    return prepared


def random_images(cfg: CfgNode, batch: int, size: int) -> list[dict]:
    """Inputs of noise."""
    shape = (len(cfg.MODEL.PIXEL_MEAN), size, size)
    return [{"image": torch.randint(256, shape, dtype=torch.uint8)} for _ in range(batch)]


def forward_pass(model: YOLOR, images: list[dict]) -> Callable[[], object]:
    """From normalised pixels to logits, as a function without arguments."""
    pixels = model.preprocess(images).tensor

    @torch.no_grad()
    def forward() -> object:
        return model.run_network(pixels)

    return forward


def matrix_product(dtype: torch.dtype, clock: Clock) -> tuple[Callable[[], object], int]:
    """A large product of matrices, and its floating-point operations."""
    side, largest = MATRIX_SIDES["cuda" if clock.device.type == "cuda" else "cpu"]
    while True:
        matrix = torch.rand(side, side, device=clock.device).to(dtype)
        product = functools.partial(torch.mm, matrix, matrix, out=torch.empty_like(matrix))
        product()  # warms up
        if side == largest or clock(product)[1] > MATRIX_SECONDS:
            return product, 2 * side**3
        side *= 2


def run(args: argparse.Namespace) -> Report:
    """Measure the variants.

    Raises:
        ValueError: when an argument is out of range.
    """
    timing.prepare(args, "size", "batch")
    cfg = load_config(args.config_file, args.opts)
    size = args.size or cfg.INPUT.MAX_SIZE_TEST
    cfg.MODEL.YOLOR.PADDING.PLACE = "corner"  # no margin: the network gets images of this size
    model = build(cfg)
    clock = Clock(model.device)
    variants = {name: build_variant(model, cfg, name) for name in args.variants}
    calls, peaks = {}, {}
    for dtype in {x.compute_dtype for x in variants.values()}:
        calls[dtype], peaks[dtype] = matrix_product(dtype, clock)
    for batch in args.batch:
        images = random_images(cfg, batch, size)
        for name, variant in variants.items():
            calls[name, batch] = forward_pass(variant, images)
    samples = timing.alternate(calls, rounds=args.rounds, clock=clock)

    def speed(key: object, operations: float) -> float:
        return operations / statistics.median(samples[key].counted) / 1e9

    flops = 2 * config_complexity(cfg, size, folded=True)["total"].macs
    first = args.variants[0]
    rows = []
    for batch in args.batch:
        for name, variant in variants.items():
            taken, gflops = samples[name, batch], speed((name, batch), batch * flops)
            peak = speed(variant.compute_dtype, peaks[variant.compute_dtype])
            rows.append(
                {
                    "variant": name,
                    "batch": batch,
                    **taken.columns(batch, "image"),
                    f"times {first}": taken.ratio(samples[first, batch]),
                    "GFLOP / s": gflops,
                    "% of matrix peak": 100 * gflops / peak,
                }
            )
    names = {dtype: name for name, dtype in DTYPES.items()}
    settings = {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "size": size,
        "GFLOP / image": float(f"{flops / 1e9:.4g}"),
        "rounds": args.rounds,
        **{
            f"matrix peak {names[dtype]}, GFLOP / s": round(speed(dtype, peaks[dtype]), 1)
            for dtype in peaks
        },
    }
    return Report("Network", settings, rows, describe_machine())
