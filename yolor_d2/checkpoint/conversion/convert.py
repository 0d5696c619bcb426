"""Weights of other programs as weights of our networks.

`read_weights` (formats/load.py) gives the tensors of a file without trusting it, `names.py` the
names that a network's tensors have there. Here the two meet, and every tensor is accounted for:
used, unused, missing, or of another shape.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...layers import ConvNormAct, Implicit
from ...layers.implicit import VectorImplicit
from ...networks import (
    AnchorHead,
    KeypointBranch,
    MaskBranch,
    PANNeck,
    Variant,
    YOLORBackbone,
    YOLORNetwork,
    build_network,
)
from ...wording import counted
from ..files import find_not_finite
from ..formats.load import ForeignWeights, read_weights
from .advice import advise, refuse_fused
from .names import (
    CONSTANTS,
    COUNTER,
    KEYPOINTS,
    PROTOTYPES,
    cfg_names,
    cfg_walk,
    keypoint_names,
    prototype_names,
    rename_keys,
    yaml_names,
)

logger = logging.getLogger(__name__)

# Above those of any detector; more would flood the log.
MAX_ANCHORS = 100

# Prefixes in checkpoints of Detectron2 models, as the meta-architecture nests its parts.
META_ARCH_PREFIXES = {
    "backbone.": "backbone.bottom_up.body.",
    "neck.": "backbone.neck.",
    "head.": "head.",
}


@dataclass
class ConversionReport:
    """What became of every tensor of a file; names are those of the file.

    Attributes:
        source: the file.
        scheme: how its tensors are named: "yaml", "cfg", "darknet", "network" or "detectron2".
        averaged: the moving average of the weights was taken, as the file has one.
        used: names ours by theirs.
        constants: constants that belong to the configuration and not to the weights.
        unused: names without counterpart in the network.
        missing: names ours that the file has not.
        wrong_shape: shapes in the file and in the network, by name.
        classes_kept: names ours whose class rows keep their initial values, as the file has another
            number of classes.
        num_classes: classes of the file; None if its head has another layout.
        anchors: (L, A, 2) anchors in pixels that the file states; None if it states none.
        shapes: of all tensors of the file.
    """

    source: str
    scheme: str
    averaged: bool = False
    used: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    classes_kept: list[str] = field(default_factory=list)
    num_classes: int | None = None
    anchors: list | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def faults(self) -> str:
        """What keeps the file from fitting, with the first names; "" when it fits."""
        kinds = {
            "missing": self.missing,
            "unused": self.unused,
            "of another shape": [f"{k} {a} for {b}" for k, (a, b) in self.wrong_shape.items()],
        }
        return "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in kinds.items()
            if names
        )

    def check(self) -> None:
        """Raise a ValueError, with advice, unless every tensor has found its place."""
        if self.faults():
            advice = advise(self.scheme, self.shapes, self.missing, self.unused)
            raise ValueError(
                f"the weights in {self.source!r} do not fit: {self.faults()}"
                + (f". {advice}" if advice else "")
            )

    def summary(self) -> str:
        """One line of counts."""
        average = ", moving average" if self.averaged else ""
        kept = f", {len(self.classes_kept)} without their class rows" if self.classes_kept else ""
        used = counted(len(self.used), "tensor")
        return (
            f"{self.source} ({self.scheme} names{average}): {used} used{kept}, "
            f"{len(self.unused)} unused, {len(self.missing)} missing, {len(self.wrong_shape)} of "
            f"another shape, {counted(len(self.constants), 'constant')} left out"
        )

    def to_dict(self) -> dict:
        """Everything, for JSON."""
        return asdict(self)


def log_report(report: ConversionReport, num_classes: int) -> None:
    """Say what was used; names of everything else."""
    logger.info("%s", report.summary())
    if report.classes_kept:
        logger.warning(
            "%s is for %s, the model for %s: the class rows of the head start afresh, "
            "everything else is used",
            report.source,
            counted(report.num_classes, "class", "classes"),
            num_classes,
        )
    if report.faults():
        logger.warning("%s fits only in part: %s", report.source, report.faults())


def check_anchors(report: ConversionReport, anchors: Tensor) -> None:
    """Warn when the file states other anchors (L, A, 2) than those of the model."""
    if report.anchors is None:
        return
    stated = torch.tensor(report.anchors)
    if stated.shape != anchors.shape or not torch.allclose(stated, anchors.cpu().float()):
        logger.warning(
            "%s was trained with other anchors, boxes will come out wrong unless it is trained on; "
            "its own are MODEL.YOLOR.ANCHORS %s",
            report.source,
            report.anchors,
        )


# ---- Names


def find_scheme(names: Mapping[str, Tensor]) -> str:
    """How the tensors of a file are named.

    Raises:
        ValueError: when that is none of the known ways; the message shows some names.
    """
    patterns = {
        "yaml": r"model\.\d+\.",
        "cfg": r"module_list\.\d+\.",
        "detectron2": r"backbone\.(bottom_up\.body|neck)\.",
        "network": r"(backbone\.(stem|stages)|neck|head)\.",
    }
    for scheme, pattern in patterns.items():
        if any(re.match(pattern, name) for name in names):
            return scheme
    raise ValueError(
        f"its tensors are named like {sorted(names)[:3]}; expected names like "
        "'model.0.conv.weight' (branch paper, YOLOv7), 'module_list.0.Conv2d.weight' (branch "
        "main), or those of yolor_d2"
    )


def to_meta_arch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `YOLORNetwork` under the names of the meta-architecture."""
    return {
        META_ARCH_PREFIXES[key.split(".")[0] + "."] + key.split(".", 1)[1]: value
        for key, value in state.items()
    }


def from_meta_arch(name: str) -> str:
    """Name of the meta-architecture to that of `YOLORNetwork`; others stay as they are."""
    for ours, theirs in META_ARCH_PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


@dataclass(frozen=True)
class Parts:
    """The three parts with weights, alone or inside any model."""

    backbone: YOLORBackbone
    neck: PANNeck
    head: AnchorHead

    def state_dict(self) -> dict[str, Tensor]:
        """Under the names of `YOLORNetwork`."""
        parts = {"backbone": self.backbone, "neck": self.neck, "head": self.head}
        return {
            f"{prefix}.{key}": value
            for prefix, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def names(self, scheme: str, given: Collection[str] = ()) -> dict[str, str]:
        """Names of the tensors in files of a scheme, ours to theirs.

        Args:
            scheme: see `ConversionReport`.
            given: names in the file, see `yaml_names`.

        Raises:
            ValueError: when the network has no such names.
        """
        keys = list(self.state_dict())
        if scheme == "yaml":
            return rename_keys(keys, yaml_names(self.backbone, self.neck, self.head, given))
        if scheme in ("cfg", "darknet"):
            return rename_keys(keys, cfg_names(self.backbone, self.neck, self.head))
        return {key: key for key in keys}


def find_parts(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Backbone, neck and head of a `YOLORNetwork` or of the meta-architecture, if it has them."""
    backbone = getattr(model, "backbone", None)
    neck = getattr(model, "neck", None) or getattr(backbone, "neck", None)
    body = getattr(getattr(backbone, "bottom_up", backbone), "body", backbone)
    return body, neck, getattr(model, "head", None)


def has_own_parts(model: nn.Module) -> bool:
    """Whether backbone, neck and head are those of this project."""
    kinds = (YOLORBackbone, PANNeck, AnchorHead)
    return all(isinstance(part, kind) for part, kind in zip(find_parts(model), kinds))


def parts_of(model: nn.Module) -> Parts:
    """The parts of a `YOLORNetwork` or of the meta-architecture.

    Raises:
        ValueError: when the model has other parts, which only its own checkpoints fit.
    """
    if not has_own_parts(model):
        kinds = ", ".join(type(part).__name__ for part in find_parts(model))
        raise ValueError(f"weights of other programs fit YOLOR's own parts, but these are {kinds}")
    return Parts(*find_parts(model))  # pyright: ignore[reportArgumentType]


# ---- Darknet


def split_darknet(values: Tensor, parts: Parts) -> dict[str, Tensor]:
    """Cut the row of numbers of a darknet file into tensors named as in the cfg scheme.

    Each convolution of the cfg file has, in its order: with a norm its shift, scale, running mean
    and variance, else its bias; then the weights. Implicit layers are not part of the files that
    the authors' PyTorch code writes. The number of classes follows from the number of values.

    Args:
        values: (V,) float32, everything behind the file's header.
        parts: the network that the file is for.

    Raises:
        ValueError: when this network has no cfg file.
        ValueError: when the file has more or fewer numbers than the network's convolutions.
    """
    walk = cfg_walk(parts.backbone, parts.neck, parts.head)
    layers = [
        (f"module_list.{number}", step[1])
        for number, step in enumerate(walk)
        if step is not None and isinstance(step[1], (ConvNormAct, nn.Conv2d))
    ]
    # Every output of the head takes a bias and a kernel; all other sizes are those of the network.
    per_output = sum(conv.in_channels + 1 for _, conv in layers if isinstance(conv, nn.Conv2d))
    others = sum(
        conv.conv.weight.numel() + 4 * conv.norm.num_features
        for _, conv in layers
        if isinstance(conv, ConvNormAct)
    )
    outputs, rest = divmod(len(values) - others, per_output)
    num_classes = outputs // parts.head.num_anchors - 5
    if rest or outputs % parts.head.num_anchors or num_classes < 1:
        raise ValueError(
            f"it has {len(values):,} numbers; expected {others:,} and {per_output:,} for each of "
            f"the {parts.head.num_anchors} * (5 + classes) outputs"
        )

    tensors: dict[str, Tensor] = {}
    position = 0

    def take(name: str, *shape: int) -> None:
        nonlocal position
        end = position + math.prod(shape)
        tensors[name] = values[position:end].reshape(shape).clone()
        position = end

    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            take(f"{name}.Conv2d.bias", outputs)
            take(f"{name}.Conv2d.weight", outputs, *layer.weight.shape[1:])
            continue
        for field_name in ("bias", "weight", "running_mean", "running_var"):
            take(f"{name}.BatchNorm2d.{field_name}", layer.norm.num_features)
        take(f"{name}.Conv2d.weight", *layer.conv.weight.shape)
    return tensors


# ---- Classes


def count_classes(bias: Tensor | None, num_anchors: int) -> int | None:
    """Classes of a head, from its bias (A * (5 + K),); None when that is none."""
    if bias is None or bias.ndim != 1:
        return None
    outputs, rest = divmod(len(bias), num_anchors)
    return outputs - 5 if rest == 0 and outputs > 5 else None


def keep_class_rows(given: Tensor, initial: Tensor, num_anchors: int) -> Tensor | None:
    """Outputs of a head for another number of classes: box and objectness given, classes initial.

    Args:
        given: a tensor of a head with A * (5 + K1) outputs, along its first axis, or along the
            second of (1, A * (5 + K1), 1, 1).
        initial: the same of the network, with A * (5 + K2) outputs.
        num_anchors: A.

    Returns:
        A tensor shaped like `initial`; None when the two differ in more than the classes.
    """
    axis = 1 if initial.ndim == 4 and initial.shape[0] == 1 else 0
    if given.ndim != initial.ndim or axis >= given.ndim:
        return None
    rows, wanted = given.movedim(axis, 0), initial.movedim(axis, 0)
    if rows.shape[1:] != wanted.shape[1:] or len(rows) % num_anchors or len(wanted) % num_anchors:
        return None
    rows = rows.unflatten(0, (num_anchors, -1))
    result = wanted.clone().unflatten(0, (num_anchors, -1))
    if rows.shape[1] < 6:
        return None
    result[:, :5] = rows[:, :5].to(result)
    return result.flatten(0, 1).movedim(0, axis).contiguous()


# ---- Further tasks


def fold_alignment(tensors: dict[str, Tensor], parts: Parts, head: int) -> None:
    """Put the alignment of a file into the biases of its predictions, as other parts of that
    network read the features without it. What the network itself aligns stays as it is.

    Args:
        tensors: of the file, changed.
        parts: the detector.
        head: number of the head in the file.
    """
    for i, align in enumerate(parts.neck.align):
        keys = [f"model.{head}.{x}" for x in (f"m.{i}.weight", f"m.{i}.bias", f"ia.{i}.implicit")]
        if not all(key in tensors for key in keys):
            continue  # what is missing is named later
        weight, bias, added = (tensors[key].double() for key in keys)
        tensors[keys[1]] = (bias + weight[:, :, 0, 0] @ added.flatten()).float()
        del tensors[keys[2]]
        if isinstance(align, Implicit):
            tensors[keys[2]] = torch.full_like(added, align.neutral).float()


def take_masks(
    weights: ForeignWeights, parts: Parts, branch: MaskBranch, source: str
) -> tuple[ForeignWeights, dict[str, Tensor]]:
    """Take the branch of masks out of a file of YOLOv7's network of masks.

    There one 1x1 convolution gives the detections and the coefficients of an anchor. The alignment
    stands before it and not before the prototypes, see `fold_alignment`; what would refine the
    detections is in the file, but that network does not apply it, so that it is left out.

    Args:
        weights: what `read_weights` gave.
        parts: the detector.
        branch: what receives the weights.
        source: name of the file, for errors.

    Returns:
        The weights without that branch and its alignment, and the branch's under its own names; the
        same weights and nothing, when the file has no such branch.

    Raises:
        ValueError: when the file has another number of coefficients.
    """
    tensors = {name.removeprefix("module."): value for name, value in weights.tensors.items()}
    heads = {int(match[1]) for name in tensors if (match := PROTOTYPES.fullmatch(name))}
    if not heads:
        return weights, {}
    head = max(heads)
    last = tensors.get(f"model.{head}.proto.cv3.conv.weight")
    count = branch.project.conv.out_channels
    if last is not None and len(last) != count:
        raise ValueError(
            f"the weights in {source!r} are for {len(last)} prototypes, "
            f"MODEL.YOLOR.TASKS.MASKS.COEFFICIENTS is {count}"
        )
    fold_alignment(tensors, parts, head)
    state = {}
    for i, refine in enumerate(parts.head.refine):
        for name in ("weight", "bias"):
            both = tensors.get(f"model.{head}.m.{i}.{name}")
            if both is None or len(both) % parts.head.num_anchors:
                continue  # what is missing is named later
            rows = both.unflatten(0, (parts.head.num_anchors, -1))
            tensors[f"model.{head}.m.{i}.{name}"] = rows[:, :-count].flatten(0, 1)
            state[f"predict.{i}.{name}"] = rows[:, -count:].flatten(0, 1)
        unused = tensors.pop(f"model.{head}.im.{i}.implicit", None)
        if unused is not None and isinstance(refine, Implicit):
            tensors[f"model.{head}.im.{i}.implicit"] = torch.full_like(unused, refine.neutral)
    # Refined by what changes nothing, where the file can say so.
    for name, module in branch.refine.named_children():
        if isinstance(module, VectorImplicit):
            state[f"refine.{name}.z"] = torch.full_like(module.z.detach(), module.neutral)
    names = rename_keys(
        [key for key in branch.state_dict() if not key.startswith(("predict.", "refine."))],
        prototype_names(branch, head),
    )
    state |= {ours: tensors.pop(theirs) for ours, theirs in names.items() if theirs in tensors}
    logger.info("%s: implicit knowledge on predictions is left out, as its network does", source)
    return replace(weights, tensors=tensors), state


def take_branch(
    weights: ForeignWeights, parts: Parts, branch: nn.Module, source: str
) -> tuple[ForeignWeights, dict[str, Tensor]]:
    """Take the branch of a further task out of a file of a network that has one, see `take_masks`
    and `take_keypoints`."""
    if isinstance(branch, MaskBranch):
        return take_masks(weights, parts, branch, source)
    if isinstance(branch, KeypointBranch):
        return take_keypoints(weights, parts, branch, source)
    return weights, {}


def take_keypoints(
    weights: ForeignWeights, parts: Parts, branch: KeypointBranch, source: str
) -> tuple[ForeignWeights, dict[str, Tensor]]:
    """Take the branch of keypoints out of a file of YOLOv7's pose network.

    The alignment of that network stands before the predictions of boxes alone, ours before the
    branches of all tasks. It is an addition before a 1x1 convolution, so it goes into the bias
    of that; the network's own alignment, if it has one, is given the value that changes nothing.

    Args:
        weights: what `read_weights` gave.
        parts: the detector.
        branch: what receives the weights.
        source: name of the file, for errors.

    Returns:
        The weights without that branch and its alignment, and the branch's under its own names; the
        same weights and nothing, when the file has no such branch.

    Raises:
        ValueError: when the network has another layout of channels or number of classes.
    """
    tensors = {name.removeprefix("module."): value for name, value in weights.tensors.items()}
    heads = {int(match[1]) for name in tensors if (match := KEYPOINTS.fullmatch(name))}
    if not heads:
        return weights, {}
    head = max(heads)
    if branch.layout != "yolov7":
        raise ValueError(
            f"the weights in {source!r} are those of YOLOv7's pose network, which need "
            f"MODEL.YOLOR.TASKS.KEYPOINTS.LAYOUT 'yolov7', got {branch.layout!r}"
        )
    classes = count_classes(tensors.get(f"model.{head}.m.0.bias"), parts.head.num_anchors)
    if classes is not None and classes != parts.head.num_classes:
        raise ValueError(
            f"the weights in {source!r} are for {counted(classes, 'class', 'classes')}, "
            f"MODEL.YOLOR.NUM_CLASSES is {parts.head.num_classes}: which channels of YOLOv7's pose "
            "network belong to which anchor depends on it"
        )
    fold_alignment(tensors, parts, head)
    names = rename_keys(
        [key for key in branch.state_dict() if not key.startswith("implicit.")],
        keypoint_names(branch, head),
    )
    state = {ours: tensors.pop(theirs) for ours, theirs in names.items() if theirs in tensors}
    return replace(weights, tensors=tensors), state


# ---- Conversion


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
        State dict under the names of `YOLORNetwork`, incomplete where the report says so.

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
