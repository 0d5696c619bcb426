"""Names of tensors in the "yaml" scheme, `model.<layer>.<field>`: one number for each block."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from typing import TypeGuard

from torch import nn

from ...layers import (
    C3,
    CSPSPP,
    EELAN,
    ELAN,
    MP,
    SPP,
    SPPCSPC,
    SPPT,
    ConvNormAct,
    CSPDownsample,
    CSPNeckBlock,
    CSPStage,
    Focus,
    RepConv,
    Residual,
)
from ...networks import AnchorHead, KeypointBranch, MaskBranch, PANNeck, YOLORBackbone
from .names import Walk

# Of the first prediction; no other layer has convolutions without a norm.
HEAD_BIAS = re.compile(r"model\.(\d+)\.m\.0\.bias")

# Of the branch of keypoints in the head of YOLOv7's pose network.
KEYPOINTS = re.compile(r"model\.(\d+)\.m_kpt\.\d+\.\d+\..+")

# Of the branch of masks in the head of YOLOv7's network of masks.
PROTOTYPES = re.compile(r"model\.(\d+)\.proto\.cv\d\..+")

SPP_FIELDS = {
    "before.0": "cv1",
    "before.1": "cv3",
    "before.2": "cv4",
    "after.0": "cv5",
    "after.1": "cv6",
    "split": "cv2",
    "merge.norm_act.0": "bn",
    "merge.output": "cv7",
}
# Fields of a block, ours to the authors'; {} stands for the number of a repeated unit.
YAML_FIELDS: dict[type[nn.Module], dict[str, str]] = {
    CSPStage: {
        "entry": "cv1",
        "split": "cv2",
        "transition": "cv3",
        "merge.norm_act.0": "bn",
        "merge.output": "cv4",
        "units.{}.reduce": "m.{}.cv1",
        "units.{}.expand": "m.{}.cv2",
    },
    CSPNeckBlock: {
        "entry": "cv1",
        "split": "cv2",
        "merge.norm_act.0": "bn",
        "merge.output": "cv3",
        "units.{}.0": "m.{}.cv1",
        "units.{}.1": "m.{}.cv2",
    },
    C3: {
        "entry": "cv1",
        "split": "cv2",
        "merge.output": "cv3",
        "units.{}.reduce": "m.{}.cv1",
        "units.{}.expand": "m.{}.cv2",
    },
    CSPSPP: SPP_FIELDS,
    SPPCSPC: SPP_FIELDS,
    SPP: {"before": "cv1", "after": "cv2"},
    Focus: {"conv": "conv"},
    RepConv: {"dense": "rbr_dense", "pointwise": "rbr_1x1", "identity": "rbr_identity"},
    CSPDownsample: {"reduce": "cv1", "down": "cv2", "pooled": "cv3"},
    Residual: {"reduce": "cv1", "expand": "cv2"},
}


def yaml_rows(path: str, module: nn.Module) -> Walk:
    """What of a block has a number of its own."""
    if isinstance(module, EELAN):
        yield from yaml_rows(f"{path}.first", module.first)
        yield from yaml_rows(f"{path}.second", module.second)
        yield None  # sum
    elif isinstance(module, ELAN):
        yield f"{path}.skip", module.skip
        yield f"{path}.entry", module.entry
        for i, conv in enumerate(module.chain):
            yield f"{path}.chain.{i}", conv
        yield None  # concatenation
        yield f"{path}.output", module.output
    elif isinstance(module, SPPT):
        yield f"{path}.split", module.split
        yield f"{path}.before.0", module.before[0]
        yield from [None] * 4  # three pools, concatenation
        yield f"{path}.after.0", module.after[0]
        yield None  # concatenation
        yield f"{path}.merge.output", module.merge.output
    elif isinstance(module, MP):
        yield None  # pool
        yield f"{path}.pooled", module.pooled
        yield f"{path}.reduce", module.reduce
        yield f"{path}.down", module.down
    elif is_pooled_stage(module):
        for i, part in enumerate(module):
            yield from yaml_rows(f"{path}.{i}", part)
    elif not isinstance(module, nn.Identity):
        yield path, module


def is_pooled_stage(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a stage is YOLOv5's last one, `SPP` and `C3`."""
    return isinstance(module, nn.Sequential) and isinstance(module[0], SPP)


def yaml_walk(backbone: YOLORBackbone, neck: PANNeck) -> Walk:
    """Blocks in the order of the yaml files; the head, which follows, is one layer."""
    # YOLOR's files have an output convolution right behind its block, YOLOv7's have all at the end.
    outputs_last = not all(isinstance(block, CSPNeckBlock) for block in neck.bottom_up)
    for i, layer in enumerate(backbone.stem):
        yield f"backbone.stem.{i}", layer
    for i, stage in enumerate(backbone.stages):
        for j, block in enumerate(stage):
            yield from yaml_rows(f"backbone.stages.{i}.{j}", block)
            if isinstance(block, MP):
                yield None  # concatenation
    yield from yaml_rows("neck.spp", neck.spp)
    for i in reversed(range(len(neck.top_down))):
        yield f"neck.reduce.{i}", neck.reduce[i]
        yield None  # up-sampling
        yield from yaml_rows(f"neck.lateral.{i}", neck.lateral[i])
        yield None  # concatenation
        yield from yaml_rows(f"neck.top_down.{i}", neck.top_down[i])
    if not outputs_last:
        yield from yaml_rows("neck.output.0", neck.output[0])
    for i, block in enumerate(neck.bottom_up):
        yield from yaml_rows(f"neck.down.{i}", neck.down[i])
        yield None  # concatenation
        yield from yaml_rows(f"neck.bottom_up.{i}", block)
        if not outputs_last:
            yield from yaml_rows(f"neck.output.{i + 1}", neck.output[i + 1])
    ends = {"output": neck.output if outputs_last else [], "auxiliary": neck.auxiliary}
    for name, convs in ends.items():
        for i, conv in enumerate(convs):
            yield from yaml_rows(f"neck.{name}.{i}", conv)


def yaml_leaves(path: str, module: nn.Module, theirs: str) -> Iterator[tuple[str, str]]:
    """Paths of the layers with weights below a module, ours and theirs."""
    if isinstance(module, ConvNormAct):
        yield f"{path}.conv", f"{theirs}.conv"
        yield f"{path}.norm", f"{theirs}.bn"
    elif isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
        yield path, theirs
    elif isinstance(module, nn.Sequential):  # residual units in a row; one alone has no number
        for i, unit in enumerate(module):
            number = f".{i}" if len(module) > 1 else ""
            yield from yaml_leaves(f"{path}.{i}", unit, f"{theirs}{number}")
    elif type(module) in YAML_FIELDS:
        parts = dict(module.named_modules())
        for ours, field in YAML_FIELDS[type(module)].items():
            for i in itertools.count():
                part = parts.get(ours.format(i))
                if part is None or isinstance(part, nn.Identity):
                    break
                yield from yaml_leaves(
                    f"{path}.{ours.format(i)}", part, f"{theirs}.{field.format(i)}"
                )
                if "{}" not in ours:
                    break


def yaml_names(
    backbone: YOLORBackbone, neck: PANNeck, head: AnchorHead, given: Collection[str] = ()
) -> dict[str, str]:
    """Layers with weights in the "yaml" scheme, ours to theirs.

    Args:
        backbone: of the network.
        neck: likewise.
        head: likewise.
        given: names in the file. The head is the last layer, behind the convolutions of auxiliary
            heads, which the file may lack though the network has them, or the other way round.

    Raises:
        ValueError: when this network has no such names.
    """
    if type(neck.spp) is CSPSPP and not neck.spp.merge.has_norm:
        raise ValueError("it is in form Y, the network in form D (MODEL.YOLOR.FORM changes that)")
    names = {}
    number = 0
    for number, step in enumerate(yaml_walk(backbone, neck)):
        if step is not None:
            names.update(yaml_leaves(*step, f"model.{number}"))
    last = number + 1
    moved = last - len(neck.auxiliary) if len(neck.auxiliary) else last + len(head.predict)
    last = find_head(given, (last, moved))
    for i in range(len(head.predict)):
        names[f"head.predict.{i}"] = f"model.{last}.m.{i}"
        names[f"neck.align.{i}"] = f"model.{last}.ia.{i}"
        names[f"head.refine.{i}"] = f"model.{last}.im.{i}"
        names[f"head.auxiliary.{i}"] = f"model.{last}.m2.{i}"
    return names


def find_head(given: Collection[str], possible: tuple[int, int]) -> int:
    """Number of the head in a file, if it is a possible one, else the first of these."""
    counts = {int(match[1]) for name in given if (match := HEAD_BIAS.fullmatch(name))}
    return possible[1] if counts == {possible[1]} else possible[0]


def keypoint_names(branch: KeypointBranch, head: int) -> dict[str, str]:
    """Layers with weights of the branch of keypoints in the "yaml" scheme, ours to theirs; implicit
    knowledge has none there.

    Args:
        branch: of the network.
        head: number of the head in the file.
    """
    names = {}
    for i, (convs, predict) in enumerate(zip(branch.convs, branch.predict)):
        assert isinstance(convs, nn.Sequential)
        theirs = f"model.{head}.m_kpt.{i}"
        for j, conv in enumerate(convs):
            names.update(yaml_leaves(f"convs.{i}.{j}", conv, f"{theirs}.{j}"))
        names.update(yaml_leaves(f"predict.{i}", predict, f"{theirs}.{len(convs)}"))
    return names


def prototype_names(branch: MaskBranch, head: int) -> dict[str, str]:
    """Layers with weights of the prototypes in the "yaml" scheme, ours to theirs.

    Args:
        branch: of the network.
        head: number of the head in the file.
    """
    names = {}
    for number, path in enumerate(("reduce", "smooth", "project"), start=1):
        names.update(yaml_leaves(path, getattr(branch, path), f"model.{head}.proto.cv{number}"))
    return names
