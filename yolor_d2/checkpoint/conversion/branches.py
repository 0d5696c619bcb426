"""Branches of further tasks, taken out of files of networks that have them."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...layers import Implicit
from ...layers.implicit import VectorImplicit
from ...networks import KeypointBranch, MaskBranch
from ...wording import counted
from ..formats.load import ForeignWeights
from .classes import count_classes
from .names import rename_keys
from .parts import Parts
from .yaml_scheme import KEYPOINTS, PROTOTYPES, keypoint_names, prototype_names

logger = logging.getLogger(__name__)


def fold_alignment(tensors: dict[str, Tensor], parts: Parts, head: int) -> None:
    """Put the alignment of a file into the biases of its predictions, as other parts of that
    network read the features without it. What the network itself aligns stays unchanged.

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
