"""Names of tensors in the "cfg" scheme, `module_list.<layer>.<kind>`: one number for each layer."""

from __future__ import annotations

from torch import nn

from ...layers import CSPSPP, ConvNormAct, CSPNeckBlock, CSPStage, Implicit, Residual
from ...networks import AnchorHead, PANNeck, YOLORBackbone
from .names import Walk


def stage_walk(path: str, stage: CSPStage) -> Walk:
    """The split comes first in these files, though second in the concatenation."""
    yield f"{path}.split", stage.split
    yield None  # back to the input
    yield f"{path}.entry", stage.entry
    for i, unit in enumerate(stage.units):
        yield from residual_walk(f"{path}.units.{i}", unit)
    if not isinstance(stage.transition, nn.Identity):
        yield f"{path}.transition", stage.transition
    yield None  # concatenation
    yield f"{path}.merge.output", stage.merge.output


def residual_walk(path: str, unit: Residual) -> Walk:
    yield f"{path}.reduce", unit.reduce
    yield f"{path}.expand", unit.expand
    yield None  # sum


def neck_block_walk(path: str, block: CSPNeckBlock) -> Walk:
    yield f"{path}.entry", block.entry
    yield f"{path}.split", block.split
    yield None  # back to the entry
    for i, pair in enumerate(block.units):
        yield f"{path}.units.{i}.0", pair[0]
        yield f"{path}.units.{i}.1", pair[1]
    yield None  # concatenation
    yield f"{path}.merge.output", block.merge.output


def spp_walk(path: str, spp: CSPSPP) -> Walk:
    yield f"{path}.split", spp.split
    yield None  # back to the input
    for i, layer in enumerate(spp.before):
        yield f"{path}.before.{i}", layer
    yield from [None] * 6  # three pools, the ways back between them, their concatenation
    for i, layer in enumerate(spp.after):
        yield f"{path}.after.{i}", layer
    yield None  # concatenation
    yield f"{path}.merge.output", spp.merge.output


def cfg_block_walk(path: str, module: nn.Module) -> Walk:
    """Layers of one block.

    Raises:
        ValueError: when no published cfg file has such a block.
    """
    if isinstance(module, ConvNormAct):
        yield path, module
    elif isinstance(module, CSPStage):
        yield from stage_walk(path, module)
    elif isinstance(module, CSPNeckBlock):
        yield from neck_block_walk(path, module)
    elif isinstance(module, CSPSPP):
        yield from spp_walk(path, module)
    elif isinstance(module, Residual):
        yield from residual_walk(path, module)
    elif isinstance(module, nn.Sequential):
        for i, part in enumerate(module):
            yield from cfg_block_walk(f"{path}.{i}", part)
    elif any(True for _ in module.parameters()):
        raise ValueError(f"cfg files have no {type(module).__name__}")
    elif not isinstance(module, nn.Identity):
        yield None  # space to depth


def cfg_walk(backbone: YOLORBackbone, neck: PANNeck, head: AnchorHead) -> Walk:
    """Layers in the order of the cfg files.

    Raises:
        ValueError: when this network has no such order.
    """
    if isinstance(neck.spp, CSPSPP) and neck.spp.merge.has_norm:
        raise ValueError("it is in form D, the network in form Y (MODEL.YOLOR.FORM changes that)")
    yield from cfg_block_walk("backbone.stem", backbone.stem)
    yield from cfg_block_walk("backbone.stages", nn.Sequential(*backbone.stages))
    yield from cfg_block_walk("neck.spp", neck.spp)
    for i in reversed(range(len(neck.top_down))):
        yield f"neck.reduce.{i}", neck.reduce[i]
        yield from [None, None]  # up-sampling, back to the backbone's feature
        yield f"neck.lateral.{i}", neck.lateral[i]
        yield None  # concatenation
        yield from cfg_block_walk(f"neck.top_down.{i}", neck.top_down[i])
    for i, block in enumerate(neck.bottom_up):
        yield from cfg_block_walk(f"neck.down.{i}", neck.down[i])
        yield None  # concatenation
        yield from cfg_block_walk(f"neck.bottom_up.{i}", block)
    for place, modules in (("neck.align", neck.align), ("head.refine", head.refine)):
        for i, module in enumerate(modules):
            if isinstance(module, Implicit):
                yield f"{place}.{i}", module
    for i, predict in enumerate(head.predict):
        yield None  # back to the feature
        yield f"neck.output.{i}", neck.output[i]
        if isinstance(neck.align[i], Implicit):
            yield None  # sum with it
        yield f"head.predict.{i}", predict
        if isinstance(head.refine[i], Implicit):
            yield None  # product with it
        yield None  # decoding


def cfg_names(backbone: YOLORBackbone, neck: PANNeck, head: AnchorHead) -> dict[str, str]:
    """Layers with weights in the "cfg" scheme, ours to theirs.

    Raises:
        ValueError: when this network has no such names.
    """
    names = {}
    for number, step in enumerate(cfg_walk(backbone, neck, head)):
        if step is None:
            continue
        path, module = step
        theirs = f"module_list.{number}"
        if isinstance(module, Implicit):
            names[path] = theirs
        elif isinstance(module, ConvNormAct):
            names[f"{path}.conv"] = f"{theirs}.Conv2d"
            names[f"{path}.norm"] = f"{theirs}.BatchNorm2d"
        else:
            names[path] = f"{theirs}.Conv2d"
    return names
