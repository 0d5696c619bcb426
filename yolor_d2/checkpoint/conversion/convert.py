"""Weights of other programs as weights of our networks.

`formats.load.read_weights` gives the tensors of a file without trusting it, `names.py` the names
that a network's tensors have there. Here the two meet, and every tensor is accounted for:
used, unused, missing, or of another shape.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...networks import Variant, YOLORNetwork, build_network
from ..files import find_not_finite
from ..formats.load import ForeignWeights, read_weights
from .advice import refuse_fused
from .classes import count_classes, keep_class_rows
from .darknet import split_darknet
from .names import CONSTANTS, COUNTER, find_scheme
from .parts import Parts, from_meta_arch, parts_of
from .report import ConversionReport, check_anchors, log_report

logger = logging.getLogger(__name__)

# Above those of any detector; more would flood the log.
MAX_ANCHORS = 100


def read_anchors(value: Tensor) -> list | None:
    """Anchors in pixels, (L, A, 2), of the constant "anchor_grid"; None when it has another shape
    than (L, 1, A, 1, 1, 2)."""
    shape = tuple(value.shape)
    if shape[1:2] + shape[3:] != (1, 1, 1, 2) or not 0 < value.numel() <= 2 * MAX_ANCHORS:
        return None
    return value.float().reshape(shape[0], shape[2], 2).tolist()


class NamedTensors(NamedTuple):
    """Tensors of a file, and what the network's tensors are called there.

    Attributes:
        scheme: see `ConversionReport`.
        names: theirs by ours, see `Parts.names`.
        tensors: by their names.
    """

    scheme: str
    names: dict[str, str]
    tensors: dict[str, Tensor]

    def count_classes(self, num_anchors: int) -> int | None:
        """Classes of the file, see `count_classes`."""
        return count_classes(self.tensors.get(self.names["head.predict.0.bias"]), num_anchors)


def name_tensors(weights: ForeignWeights, parts: Parts, source: str) -> NamedTensors:
    """Tensors of a file by the names of its scheme.

    Raises:
        ValueError: when the file belongs to another kind of network altogether, or is fused.
    """
    tensors = {name.removeprefix("module."): value for name, value in weights.tensors.items()}
    try:
        scheme = "darknet" if weights.kind == "darknet" else find_scheme(tensors)
        refuse_fused(tensors)
        names = parts.names(scheme, tensors)
        if scheme == "darknet":
            tensors = split_darknet(tensors["values"], parts)
    except ValueError as error:
        raise ValueError(f"the weights in {source!r} do not fit the network: {error}") from error
    if scheme == "detectron2":
        tensors = {from_meta_arch(name): value for name, value in tensors.items()}
    return NamedTensors(scheme, names, tensors)


def convert_weights(
    weights: ForeignWeights, parts: Parts, source: str
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Weights of a file for a network, as far as they fit.

    Args:
        weights: what `read_weights` gave.
        parts: the network. Where the file has another number of classes, the class rows of its
            head keep the network's values.
        source: name of the file, for the report and errors.

    Returns:
        State dict under the names of `YOLORNetwork`, incomplete where the report lists gaps.

    Raises:
        ValueError: when the file belongs to another kind of network altogether.
    """
    named = name_tensors(weights, parts, source)
    report = ConversionReport(source, named.scheme, weights.averaged)
    report.num_classes = named.count_classes(parts.head.num_anchors)
    report.shapes = {name: tuple(value.shape) for name, value in named.tensors.items()}

    tensors = dict(named.tensors)
    state = {}
    for ours, initial in parts.state_dict().items():
        theirs = named.names[ours]
        given = tensors.pop(theirs, None)
        if given is None and ours.endswith(COUNTER):
            state[ours] = torch.zeros_like(initial)
            continue
        if given is None:
            report.missing.append(ours)
            continue
        if initial.is_floating_point() and not given.is_floating_point():
            raise ValueError(
                f"the weights in {source!r} are of no use: {theirs!r} has type {given.dtype}, "
                "expected floating-point numbers"
            )
        if given.shape != initial.shape and ours.startswith("head."):
            merged = keep_class_rows(given, initial, parts.head.num_anchors)
            if merged is not None:
                report.classes_kept.append(ours)
                given = merged
        if given.shape != initial.shape:
            report.wrong_shape[theirs] = (list(given.shape), list(initial.shape))
        else:
            state[ours] = given.to(initial.dtype)
            report.used[theirs] = ours
    broken = find_not_finite(state)
    if broken is not None:
        raise ValueError(f"the weights in {source!r} are of no use: {broken!r} is not finite")
    for name, value in tensors.items():
        known = CONSTANTS.search(name) is not None
        if name.endswith("anchor_grid"):
            report.anchors = read_anchors(value)
            known = report.anchors is not None
        (report.constants if known else report.unused).append(name)
    return state, report


def convert_file(
    path: str | Path,
    build: Callable[[int], YOLORNetwork],
    *,
    num_classes: int | None = None,
    partial: bool = False,
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Read a file of weights for a network that may take its number of classes from the file.

    Args:
        path: see `convert_checkpoint`.
        build: makes the network for a number of classes.
        num_classes: see `convert_checkpoint`.
        partial: see `convert_checkpoint`.

    Returns:
        Complete state dict of the network, and what became of every tensor.

    Raises:
        WeightsFileError: when the file cannot be read, or not safely.
        ValueError: when its weights do not fit the network.
    """
    weights = read_weights(path)
    if num_classes is None:
        with torch.device("meta"):  # the names do not depend on the number of classes
            parts = parts_of(build(1))
        named = name_tensors(weights, parts, str(path))
        # A head that fits no number of classes is a fault that the conversion names.
        num_classes = named.count_classes(parts.head.num_anchors) or 80
    network = build(num_classes)
    state, report = convert_weights(weights, parts_of(network), str(path))
    log_report(report, num_classes)
    check_anchors(report, network.anchors)
    if not partial:
        report.check()
    return {**network.state_dict(), **state}, report


def convert_checkpoint(
    path: str | Path,
    variant: str | Variant = "yolor_p6",
    *,
    num_classes: int | None = None,
    partial: bool = False,
) -> dict[str, Tensor]:
    """Read a file of weights and give the state dict of `build_network(variant, num_classes)`.

    Args:
        path: weights of the authors' branches `paper` and `main`, of YOLOv7's code in training or
            deploy form, of YOLOv5 release 5, of darknet, of this project, or in safetensors; see
            `read_weights`.
        variant: the network, see `networks.VARIANTS`.
        num_classes: classes of the network; None takes those of the file. With another number all
            but the class rows of the head is used, and those rows get fresh values.
        partial: accept a file that lacks tensors (they get fresh values), or has others.

    Raises:
        WeightsFileError: when the file cannot be read, or not safely.
        ValueError: when its weights do not fit the network.
    """
    state, _ = convert_file(
        path,
        functools.partial(build_network, variant),
        num_classes=num_classes,
        partial=partial,
    )
    return state
