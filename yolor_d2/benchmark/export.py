"""Time of an exported ONNX file in onnxruntime beside that of the model itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..config import load_config
from ..environment import describe_machine
from ..export.graph import ROWS
from ..export.onnx import require
from ..export.verify import run_on_images
from ..inputs import require_file
from ..modeling import YOLOR
from ..modeling.images import place_images
from ..modeling.inference import prepare_for_inference
from . import timing
from .model import build, random_images
from .report import Report
from .timing import Clock


def open_session(path: Path, threads: int):
    """The file in onnxruntime, on the CPU.

    Raises:
        ImportError: when onnxruntime is not installed.
        FileNotFoundError: when there is no such file.
        ValueError: when it is no ONNX file.
    """
    onnxruntime = require("onnxruntime")
    require_file("--onnx", path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, without a common base
        raise ValueError(f"--onnx: onnxruntime cannot read {str(path)!r}: {error}") from error


def eager_pass(model: YOLOR, images: list[dict], *, suppress: bool) -> Callable[[], object]:
    """What the file does, by the model, as a function without arguments."""

    @torch.no_grad()
    def forward() -> object:
        return model(images) if suppress else run_on_images(model, [x["image"] for x in images])

    return forward


def run(args: argparse.Namespace) -> Report:
    """Measure the file and the model.

    Raises:
        ValueError: when an argument is out of range, or the file takes other inputs.
    """
    timing.prepare(args, "size", "batch")
    session = open_session(args.onnx, args.threads)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    size = args.size or cfg.INPUT.MAX_SIZE_TEST
    model = prepare_for_inference(build(cfg), cfg)
    if not isinstance(model, YOLOR):
        raise ValueError("TEST.AUG.ENABLED is True, expected False: files have one view")
    divisor = model.stride
    if size % divisor:
        raise ValueError(f"--size is {size}, expected a multiple of {divisor}")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        given = [f"{x.name}: {x.type}" for x in inputs]
        raise ValueError(f"--onnx takes {given}, expected one float32 tensor, the images")
    suppress = outputs[0].name not in ROWS
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for batch in args.batch:
        images = random_images(cfg, batch, size)
        canvas = place_images(images, model.padding, model.stride).tensor
        feed = {inputs[0].name: canvas.numpy().astype(np.float32)}
        calls["eager", batch] = eager_pass(model, images, suppress=suppress)
        calls["onnxruntime", batch] = lambda feed=feed: session.run(None, feed)
    samples = timing.alternate(calls, rounds=args.rounds, clock=Clock(model.device))
    rows = [
        {
            "what": name,
            "batch": batch,
            **taken.columns(batch, "image"),
            "times eager": taken.ratio(samples["eager", batch]),
        }
        for (name, batch), taken in samples.items()
    ]
    settings = {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "size": size,
        "NMS in the file": suppress,
        "fused": cfg.MODEL.INFERENCE.FUSE,
        "channels last": cfg.MODEL.INFERENCE.CHANNELS_LAST,
        "rounds": args.rounds,
    }
    return Report("Exported file", settings, rows, describe_machine())
