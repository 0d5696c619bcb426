"""Fold away, for inference, what the layers beside a convolution do (paper section 4.4).

What training alone needs, such as auxiliary heads, goes; parallel branches of convolutions become
one (`RepConv`).

A batch norm behind a convolution, an implicit addition in front of one or behind it, and an
implicit multiplication around one are all part of one affine map, so the convolution can do them:

    y = W (g * x) + b    W'[o, i] = W[o, i] g[i]                              (eq. 9)
    y = (W x + b) + g    b' = b + g                                           (eq. 10)
    y = W (x + g) + b    b' = b + W g, the kernel's elements summed
    y = (W x + b) * g    W' = diag(g) W, b' = g * b
    y = W [g, x] + b     b' = b + W_g g, W' = W_x

Space to depth in front of a convolution only moves pixels: the convolution does the same with a
kernel of twice the size at twice the stride.

An operator says by `Operator.affine` which of these it is (`layers.operators`); one that is no
affine map stays. An addition in front of a convolution that pads with zeros cannot be folded: at
the border the convolution sees zeros, not g. Nor can anything behind an activation. Such implicit
tensors, and those whose neighbours are not known, become constants.

Which layers follow each other directly, their results used nowhere else, a module says itself:
`nn.Sequential` by its nature, `ConvNormAct` and those with a method `chains()` that yields lists of
modules. A subclass that overrides `forward` computes something unknown: it stays
unchanged, and what it inherits of `chains()` does not count.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from .conv import ConvNormAct
from .csp import CSPStage
from .downsample import SpaceToDepth
from .folding import (
    affine_of,
    bias_of,
    can_gather,
    fed_conv,
    gathering_conv,
    obstacle,
    plain_conv,
    scaled_conv,
)
from .implicit import AnchorwiseConv, FixedImplicit, Implicit
from .operators import Affine, checked_affine
from .repconv import RepConv

__all__ = ["FusionReport", "fuse_for_inference"]

# The report on what was done stays with the module.
REPORT = "fusion_report"


@dataclass
class FusionReport:
    """What `fuse_for_inference` did, by the names of the modules.

    Attributes:
        folded: folded into a convolution, and gone.
        kept: what is still computed, with the reason.
        dropped: what training alone needs, such as auxiliary heads, and is gone.
    """

    folded: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        dropped = f", {len(self.dropped)} of training alone dropped" if self.dropped else ""
        lines = [
            f"{len(self.folded)} layers folded into convolutions, {len(self.kept)} kept{dropped}"
        ]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.kept.items())])


def fuse_for_inference(module: nn.Module) -> nn.Module:
    """A copy for inference without batch norms and implicit knowledge, wherever they can be folded.

    Args:
        module: a network, a meta-architecture, or any module of blocks; unchanged.

    Returns:
        A copy in evaluation mode, its parameters without gradients, with the same outputs up to
        rounding. What was folded and what stayed is its attribute `fusion_report`; fused again, it
        stays unchanged.

    Raises:
        ValueError: when the affine map of an operator is not what the operator computes.
    """
    earlier = getattr(module, REPORT, FusionReport())
    root = nn.ModuleList([copy.deepcopy(module).eval().requires_grad_(False)])
    report = FusionReport(list(earlier.folded), dict(earlier.kept), list(earlier.dropped))
    _Fusion(root, report).run()
    fused = root[0]
    setattr(fused, REPORT, report)
    return fused


class _Fusion:
    """Replaces modules below a root, which is changed in place.

    Args:
        root: a list with the module, so that the module itself can be replaced too.
        report: to be filled.
    """

    def __init__(self, root: nn.ModuleList, report: FusionReport):
        self.root = root
        self.report = report
        self.names = {m: name.partition(".")[2] for name, m in root.named_modules()}
        # Where each module stands, and what has taken its place.
        self.places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in root.modules():
            self.note_children(parent)
        self.successors: dict[nn.Module, nn.Module] = {}
        counts = Counter(m for _, m in root.named_modules(remove_duplicate=False))
        self.shared = {m for m, count in counts.items() if count > 1}
        # Why implicit modules cannot be folded wherever they stand.
        self.refusals: dict[nn.Module, str] = {}

    def run(self) -> None:
        for module in list(self.root.modules()):
            self.drop_training_only(module)
        for module in list(self.root.modules()):
            if isinstance(module, RepConv) and computes_as(module, RepConv):
                self.merge_branches(module)
            elif isinstance(module, AnchorwiseConv) and computes_as(module, AnchorwiseConv):
                self.swap(module, plain_conv(*module.folded(), like=module))
                self.report.folded.append(f"{self.names[module]}.implicit")
            elif isinstance(module, CSPStage) and computes_as(module, CSPStage):
                self.fold_merge_norm(module)
        # Long chains first: a head's prediction and refinement are a part of its network's chain.
        chains = [chain for m in self.root.modules() for chain in chains_of(m)]
        for chain in sorted(chains, key=len, reverse=True):
            self.fold_chain(chain)
        for module in list(self.root.modules()):
            if isinstance(module, Implicit):
                self.affine(module)  # notes what else stands against it
                self.keep(module, self.refusals.get(module, NO_NEIGHBOUR))
            elif isinstance(module, nn.BatchNorm2d):
                self.report.kept.setdefault(self.names[module], "no convolution directly before it")

    def swap(self, old: nn.Module, new: nn.Module) -> None:
        """Put a module in the place of another, wherever that stands."""
        self.places[new] = self.places.pop(old, [])
        for parent, name in self.places[new]:
            setattr(parent, name, new)
        self.note_children(new)
        self.successors[old] = new
        self.names[new] = self.names.get(old, "")

    def note_children(self, parent: nn.Module) -> None:
        for name, child in parent._modules.items():
            if child is not None:
                self.places.setdefault(child, []).append((parent, name))

    def latest(self, module: nn.Module) -> nn.Module:
        """What stands in the place of a module by now."""
        while module in self.successors:
            module = self.successors[module]
        return module

    def drop(self, module: nn.Module) -> None:
        self.report.folded.append(self.names[module])
        self.swap(module, nn.Identity())

    def drop_training_only(self, module: nn.Module) -> None:
        """Empty the lists that a module names in `training_only`, where its class's own `forward`
        is known to have no use for them in evaluation mode."""
        kind = type(module)
        names: tuple[str, ...] = getattr(kind, "training_only", ())
        if names and issubclass(owner(kind, "training_only"), owner(kind, "forward")):
            for name in names:
                parts = getattr(module, name)
                self.report.dropped += [self.names[part] for part in parts]
                setattr(module, name, nn.ModuleList())

    def merge_branches(self, module: RepConv) -> None:
        """The branches of a `RepConv` as one convolution."""
        branches = list(module.branches())
        layers = [layer for branch in branches for layer in branch if layer is not None]
        if self.shared & {module, *layers} or not all(map(is_plain, layers)):
            return
        if not all(
            computes_as(branch, nn.Sequential) for branch in (module.dense, module.pointwise)
        ):
            return
        if not all(tracks(norm) for _, norm in branches):
            return
        like = branches[0][0]
        assert like is not None
        weight = torch.zeros_like(like.weight, dtype=torch.float64)
        bias = torch.zeros_like(weight[:, 0, 0, 0])
        centre = weight.shape[-1] // 2
        for conv, norm in branches:
            scale, shift = affine_of(norm)
            bias = bias + shift
            if conv is None:
                weight[:, :, centre, centre] += torch.diag(scale)
            else:
                margin = centre - conv.weight.shape[-1] // 2
                kernel = conv.weight.double() * scale.view(-1, 1, 1, 1)
                weight += torch.nn.functional.pad(kernel, [margin] * 4)
                bias = bias + bias_of(conv) * scale
        merged = nn.Sequential(plain_conv(weight, bias, like=like), module.act)
        # The 3x3 convolution stays, all others are gone.
        self.report.folded += [self.names[layer] for layer in layers if layer is not like]
        self.swap(module, merged)

    def keep(self, module: Implicit, why: str) -> None:
        """An implicit module becomes a constant, if nothing but its tensor is learned."""
        self.report.kept[self.names[module]] = why
        if computes_as(module, Implicit):
            self.swap(module, FixedImplicit(module.operator, module.value()))

    def affine(self, module: nn.Module) -> Affine | None:
        """The map of each channel that an implicit module is; None if it is none."""
        if not isinstance(module, (Implicit, FixedImplicit)):
            return None
        if not computes_as(module, Implicit, FixedImplicit):
            self.refusals[module] = f"{type(module).__name__} overrides forward, or has hooks"
            return None
        affine = checked_affine(module.operator, module.value())
        if affine is None:
            self.refusals[module] = f"operator {module.operator!r} has no affine map to fold"
        return affine

    def fold_merge_norm(self, stage: CSPStage) -> None:
        """Form Y normalises a concatenation: fold if a bare convolution ends either branch."""
        norm_act = stage.merge.norm_act
        if not isinstance(norm_act, nn.Sequential):
            return
        norm, bare = norm_act[0], [stage.transition, stage.split]
        if not isinstance(norm, nn.BatchNorm2d) or self.shared & {norm, *bare}:
            return
        if not is_plain(norm) or not all(isinstance(x, nn.Conv2d) and is_plain(x) for x in bare):
            return
        scale, shift = affine_of(norm)
        half = len(scale) // 2
        for conv, part in zip(bare, (slice(None, half), slice(half, None))):
            assert isinstance(conv, nn.Conv2d)
            self.swap(conv, scaled_conv(conv, scale[part], shift[part]))
        self.drop(norm)

    def fold_chain(self, chain: list[nn.Module]) -> None:
        layers = [m for m in map(self.latest, chain) if not isinstance(m, nn.Identity)]
        if self.shared & set(layers):
            return
        i = 0
        while i < len(layers):
            if isinstance(layers[i], nn.Conv2d) and is_plain(layers[i]):
                i = self.fold_around(layers, i)
            i += 1

    def fold_around(self, layers: list[nn.Module], i: int) -> int:
        """Let the convolution `layers[i]` take its neighbours; returns its new index."""
        conv = layers[i]
        assert isinstance(conv, nn.Conv2d)
        start = conv
        while i + 1 < len(layers):
            after = layers[i + 1]
            affine = self.affine(after)
            if isinstance(after, nn.BatchNorm2d) and is_plain(after) and tracks(after):
                conv = scaled_conv(conv, *affine_of(after))
            elif affine is not None and affine.before is None:
                conv = scaled_conv(conv, affine.scale, affine.shift)
            else:
                break
            self.drop(layers.pop(i + 1))
        while i > 0:
            before = layers[i - 1]
            if computes_as(before, SpaceToDepth) and can_gather(conv):
                conv = gathering_conv(conv)
                self.drop(layers.pop(i - 1))
                i -= 1
                continue
            affine = self.affine(before)
            if affine is None:
                break
            reason = obstacle(conv, affine)
            if reason is not None:
                if isinstance(before, Implicit):
                    self.keep(before, f"{self.names[start]} {reason}")
                break
            conv = fed_conv(conv, affine)
            self.drop(layers.pop(i - 1))
            i -= 1
        if conv is not start:
            self.swap(start, conv)
            layers[i] = conv
        return i


# Why an implicit module stays whose operator could be folded.
NO_NEIGHBOUR = "it stands beside no convolution that could take it"


def owner(kind: type, name: str) -> type:
    """The class that defines a method."""
    return next(x for x in kind.__mro__ if name in vars(x))


def computes_as(module: nn.Module, *bases: type) -> bool:
    """Whether a module computes what one of these classes computes, and no hook changes that."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    own = type(module).forward
    return not hooked and any(own is base.forward for base in bases)  # type: ignore[attr-defined]


def is_plain(layer: nn.Module) -> bool:
    """Whether a convolution or batch norm computes what its kind does, so that its numbers tell all
    of it."""
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm2d
    same = not isinstance(layer, nn.Conv2d) or type(layer)._conv_forward is nn.Conv2d._conv_forward
    return same and computes_as(layer, kind)


def tracks(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm has statistics of its own in evaluation mode."""
    return norm.running_mean is not None


def chains_of(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Lists of layers of a module of which each feeds the next and nothing else."""
    kind = type(module)
    if isinstance(module, nn.Sequential):
        if kind.forward is nn.Sequential.forward:
            yield [layer for part in module for layer in layers_of(part)]
    elif isinstance(module, ConvNormAct):
        if kind.forward is ConvNormAct.forward:
            yield [module.conv, module.norm, module.act]
    elif hasattr(kind, "chains") and issubclass(owner(kind, "chains"), owner(kind, "forward")):
        yield from module.chains()  # type: ignore[operator]


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a `ConvNormAct`; anything else is one layer."""
    if isinstance(module, ConvNormAct) and computes_as(module, ConvNormAct):
        return [module.conv, module.norm, module.act]
    return [module]
