"""Fold away, for inference, what the layers beside a convolution do (paper section 4.4).

A batch norm behind a convolution, an implicit addition in front of one or behind it, and an
implicit multiplication around one are all part of one affine map, so the convolution can do them:

    y = W (g * x) + b    W'[o, i] = W[o, i] g[i]                              (eq. 9)
    y = (W x + b) + g    b' = b + g                                           (eq. 10)
    y = W (x + g) + b    b' = b + W g, the kernel's elements summed
    y = (W x + b) * g    W' = diag(g) W, b' = g * b
    y = W [g, x] + b     b' = b + W_g g, W' = W_x

An addition in front of a convolution that pads with zeros cannot be folded: at the border the
convolution sees zeros, not g. Nor can anything behind an activation. Such implicit tensors, and
those whose neighbours are not known, become constants.

Which layers follow each other directly, their results used nowhere else, a module says itself:
`nn.Sequential` by its nature, `ConvNormAct` and those with a method `chains()` that yields lists of
modules.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .conv import ConvNormAct
from .csp import CSPStage
from .implicit import AnchorwiseConv, FixedImplicit, Implicit

# The report on what was done stays with the module.
REPORT = "fusion_report"


@dataclass
class FusionReport:
    """What `fuse_for_inference` did, by the names of the modules.

    Attributes:
        folded: folded into a convolution, and gone.
        kept: what is still computed, with the reason.
    """

    folded: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} layers folded into convolutions, {len(self.kept)} kept"]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.kept.items())])


def fuse_for_inference(module: nn.Module) -> nn.Module:
    """A copy for inference without batch norms and implicit knowledge, wherever they can be folded.

    Args:
        module: a network, a meta-architecture, or any module of blocks; unchanged.

    Returns:
        A copy in evaluation mode, its parameters without gradients, with the same outputs up to
        rounding. What was folded and what stayed is its attribute `fusion_report`; fused again, it
        stays as it is.
    """
    earlier = getattr(module, REPORT, FusionReport())
    root = nn.ModuleList([copy.deepcopy(module).eval().requires_grad_(False)])
    report = FusionReport(list(earlier.folded), dict(earlier.kept))
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
        places = Counter(m for _, m in root.named_modules(remove_duplicate=False))
        self.shared = {m for m, count in places.items() if count > 1}

    def run(self) -> None:
        for module in list(self.root.modules()):
            if isinstance(module, AnchorwiseConv):
                self.swap(module, plain_conv(*module.folded(), like=module))
                self.report.folded.append(f"{self.names[module]}.implicit")
            elif isinstance(module, CSPStage):
                self.fold_merge_norm(module)
        # Long chains first: a head's prediction and refinement are a part of its network's chain.
        chains = [chain for m in self.root.modules() for chain in chains_of(m)]
        for chain in sorted(chains, key=len, reverse=True):
            self.fold_chain(chain)
        for module in list(self.root.modules()):
            if isinstance(module, Implicit):
                self.keep(module, "it stands beside no convolution that could take it")
            elif isinstance(module, nn.BatchNorm2d):
                self.report.kept.setdefault(self.names[module], "no convolution directly before it")

    def swap(self, old: nn.Module, new: nn.Module) -> None:
        """Put a module in the place of another, wherever that stands."""
        for parent in list(self.root.modules()):
            for name, child in list(parent.named_children()):
                if child is old:
                    setattr(parent, name, new)
        self.names[new] = self.names.get(old, "")

    def drop(self, module: nn.Module) -> None:
        self.report.folded.append(self.names[module])
        self.swap(module, nn.Identity())

    def keep(self, module: Implicit, why: str) -> None:
        """An implicit module becomes a constant."""
        self.report.kept[self.names[module]] = why
        self.swap(module, FixedImplicit(module.operator, module.value()))

    def fold_merge_norm(self, stage: CSPStage) -> None:
        """Form Y normalises a concatenation: fold if a bare convolution ends either branch."""
        norm_act = stage.merge.norm_act
        if not isinstance(norm_act, nn.Sequential):
            return
        norm, bare = norm_act[0], [stage.transition, stage.split]
        if not isinstance(norm, nn.BatchNorm2d) or self.shared & {norm, *bare}:
            return
        if not all(isinstance(conv, nn.Conv2d) for conv in bare):
            return
        scale, shift = affine_of(norm)
        half = len(scale) // 2
        for conv, part in zip(bare, (slice(None, half), slice(half, None))):
            assert isinstance(conv, nn.Conv2d)
            self.swap(conv, scaled_conv(conv, scale[part], shift[part]))
        self.drop(norm)

    def fold_chain(self, chain: list[nn.Module]) -> None:
        # Modules that were replaced earlier are found by their names.
        current = {name: m for m, name in self.names.items()}
        present = set(self.root.modules())
        layers = [m if m in present else current[self.names[m]] for m in chain]
        layers = [m for m in layers if not isinstance(m, nn.Identity)]
        if self.shared & set(layers):
            return
        i = 0
        while i < len(layers):
            if isinstance(layers[i], nn.Conv2d):
                i = self.fold_around(layers, i)
            i += 1

    def fold_around(self, layers: list[nn.Module], i: int) -> int:
        """Let the convolution `layers[i]` take its neighbours; returns its new index."""
        conv = layers[i]
        assert isinstance(conv, nn.Conv2d)
        start = conv
        while i + 1 < len(layers):
            after = layers[i + 1]
            if isinstance(after, nn.BatchNorm2d) and after.running_mean is not None:
                conv = scaled_conv(conv, *affine_of(after))
            elif isinstance(after, (Implicit, FixedImplicit)) and after.operator != "concat":
                conv = refined_conv(conv, after.operator, after.value())
            else:
                break
            self.drop(layers.pop(i + 1))
        while i > 0:
            before = layers[i - 1]
            if not isinstance(before, (Implicit, FixedImplicit)):
                break
            reason = obstacle(conv, before.operator)
            if reason is not None:
                if isinstance(before, Implicit):
                    self.keep(before, f"{self.names[start]} {reason}")
                break
            conv = fed_conv(conv, before.operator, before.value())
            self.drop(layers.pop(i - 1))
            i -= 1
        if conv is not start:
            self.swap(start, conv)
            layers[i] = conv
        return i


def chains_of(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Lists of layers of a module of which each feeds the next and nothing else."""
    if isinstance(module, nn.Sequential):
        yield list(module)
    elif isinstance(module, ConvNormAct):
        yield [module.conv, module.norm, module.act]
    elif hasattr(module, "chains"):
        yield from module.chains()  # type: ignore[operator]


def affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a batch norm in evaluation mode, float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def plain_conv(
    weight: Tensor, bias: Tensor, *, like: nn.Conv2d, in_channels: int | None = None
) -> nn.Conv2d:
    """A convolution with these values and the geometry, type and device of another."""
    conv = nn.Conv2d(
        like.in_channels if in_channels is None else in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        padding_mode=like.padding_mode,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=False)
    return conv.eval()


def bias_of(conv: nn.Conv2d) -> Tensor:
    """(O,) bias in float64, zeros where there is none."""
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.double()


def scaled_conv(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """The convolution whose outputs are those of another, times `scale` plus `shift`, (O,) each."""
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    return plain_conv(weight, bias_of(conv) * scale + shift, like=conv)


def refined_conv(conv: nn.Conv2d, operator: str, g: Tensor) -> nn.Conv2d:
    """The convolution whose outputs are those of another met with g, (1, O, 1, 1)."""
    g = g.flatten().double()
    if operator == "mul":
        return scaled_conv(conv, g, torch.zeros_like(g))
    return scaled_conv(conv, torch.ones_like(g), g)


def obstacle(conv: nn.Conv2d, operator: str) -> str | None:
    """Why a convolution cannot take an implicit tensor in front of it; None if it can."""
    if operator == "concat" and conv.groups != 1:
        return "has groups"
    if operator != "mul" and pads_with_zeros(conv):
        return "pads with zeros at the border"
    return None


def pads_with_zeros(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros":
        return False  # padding with values of the map itself: x + g is padded with x + g
    # "same" and "valid" are words; a kernel of one element needs no padding.
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(size > 1 for size in conv.kernel_size)
    return any(conv.padding)


def fed_conv(conv: nn.Conv2d, operator: str, g: Tensor) -> nn.Conv2d:
    """The convolution that does on x what another does on x met with g, (1, C, 1, 1)."""
    g = g.flatten().double()
    weight, bias = conv.weight.double(), bias_of(conv)  # (O, C / groups, k, k)
    if operator == "concat":
        constant, explicit = weight[:, : len(g)], weight[:, len(g) :]
        bias = bias + constant.sum(dim=(2, 3)) @ g
        return plain_conv(explicit, bias, like=conv, in_channels=explicit.shape[1])
    rows = torch.arange(conv.out_channels, device=g.device)
    group = rows // (conv.out_channels // conv.groups)
    of_output = g.view(conv.groups, -1)[group]  # (O, C / groups)
    if operator == "mul":
        return plain_conv(weight * of_output[:, :, None, None], bias, like=conv)
    return plain_conv(weight, bias + (weight.sum(dim=(2, 3)) * of_output).sum(dim=1), like=conv)
