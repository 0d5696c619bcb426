"""Files as the programs of YOLOv7 and YOLOv5 write them: whole pickled modules, of random weights.

The classes are stand-ins that carry the names of the authors' alone, which is all that a pickle
says of a class.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MODULES = {
    "models.yolo": ("Model", "IAuxDetect", "IKeypoint", "ISegment", "IDetect", "Detect"),
    "models.common": (
        *("Conv", "Concat", "MP", "SP", "SPPCSPC", "RepConv", "DownC", "ReOrg", "Shortcut"),
        *("Focus", "Bottleneck", "C3", "SPP", "ImplicitA", "ImplicitM"),
    ),
}
# What files hold beside the model.
OF_A_RUN = {
    "epoch": 299,
    "best_fitness": np.array([0.5]),
    "training_results": "  0/299  11.2G  0.05\n",
    "updates": 1200,
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
    "wandb_id": "3xm1a7q2",
}
STRIPPED = {
    "epoch": -1,
    **dict.fromkeys(("training_results", "updates", "optimizer", "wandb_id", "ema")),
    "best_fitness": np.array([0.5]),
}
DEPLOYED = {"optimizer": None, "training_results": None, "epoch": -1}


@contextmanager
def authors_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """The classes by name; outside they cannot be imported."""
    modules = {"models": types.ModuleType("models")}
    classes = {}
    for module_name, names in MODULES.items():
        modules[module_name] = types.ModuleType(module_name)
        for name in names:
            classes[name] = type(name, (nn.Module,), {"__module__": module_name})
            setattr(modules[module_name], name, classes[name])
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]


def name_class(children: set[str]) -> str:
    """The authors' class with these parts."""
    known = {
        "Conv": {"conv", "bn"},
        "RepConv": {"rbr_dense"},
        "IAuxDetect": {"m", "m2"},
        "IKeypoint": {"m", "m_kpt"},
        "ISegment": {"m", "proto"},
        "IDetect": {"m", "ia"},
        "SPPCSPC": {"cv7"},
        "C3": {"cv3", "m"},
        "DownC": {"cv3"},
        "Focus": {"conv"},
        "SPP": {"cv2"},
        "Detect": {"m"},
    }
    return next((name for name, parts in known.items() if parts <= children), "Model")


def group(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the first part of their names."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = value
    return parts


def leaf(state: dict[str, Tensor], classes: dict[str, type[nn.Module]]) -> nn.Module:
    """A layer with tensors of its own."""
    weight = state.get("weight")
    if "implicit" in state:
        neutral = state["implicit"].mean() > 0.5
        module: nn.Module = classes["ImplicitM" if neutral else "ImplicitA"]()
    elif "running_mean" in state:
        module = nn.BatchNorm2d(len(state["running_mean"]), eps=1e-3, momentum=0.03)
    else:
        assert weight is not None
        width, depth, size, _ = weight.shape
        module = nn.Conv2d(depth, width, size, bias="bias" in state, device="meta")
    for name, value in state.items():
        of_norm = name.startswith(("running", "num_"))
        (module._buffers if of_norm else module._parameters)[name] = (
            value.clone() if of_norm else nn.Parameter(value.clone())
        )
    if "running_mean" in state and "num_batches_tracked" not in state:
        del module._buffers["num_batches_tracked"]
    return module


def build(
    state: dict[str, Tensor], classes: dict[str, type[nn.Module]], inside: str = ""
) -> nn.Module:
    """The module with these tensors, of the class that the authors have for it."""
    if not any("." in name for name in state):
        return leaf(state, classes)
    parts = group(state)
    numbered = all(name.isdigit() for name in parts)
    if numbered:
        of_head = "0.bias" in state or "0.implicit" in state
        module: nn.Module = nn.ModuleList() if of_head else nn.Sequential()
    else:
        name = name_class(set(parts))
        module = classes["Bottleneck" if inside == "m" and name == "SPP" else name]()
        module.act = nn.SiLU()
    for name, below in parts.items():
        if "" in below:
            module.register_buffer(name, below[""].clone())
        else:
            module._modules[name] = build(below, classes, inside if numbered else name)
    return module


def build_model(state: dict[str, Tensor], classes: dict[str, type[nn.Module]]) -> nn.Module:
    """A whole model: numbered layers, those without weights between them, and attributes."""
    layers = {
        int(k): v for k, v in group({k.split(".", 1)[1]: v for k, v in state.items()}).items()
    }
    without = cycle(
        [nn.Upsample, nn.MaxPool2d]
        + [classes[name] for name in ("Concat", "MP", "SP", "ReOrg", "Shortcut")]
    )
    model = classes["Model"]()
    model.model = nn.Sequential()
    for i in range(max(layers) + 1):
        if i in layers:
            layer = build(layers[i], classes)
        else:
            kind = next(without)
            layer = kind(2) if kind is nn.MaxPool2d else kind()
        layer.i, layer.f, layer.type, layer.np = i, -1, f"models.common.{i}", 0
        model.model._modules[str(i)] = layer
    head = model.model[-1]
    head.grid, head.stride, head.nl = [torch.zeros(1)] * 3, torch.tensor([8.0, 16.0, 32.0]), 3
    model.yaml = {"nc": 80, "anchors": [[12, 16, 19, 36]], "backbone": [[-1, 1, "Conv", [32]]]}
    model.names = [f"class {i}" for i in range(3)]
    model.save, model.stride, model.hyp = [3, 5], head.stride, {"lr0": 0.01}
    model.nc, model.gr, model.class_weights = 3, 1.0, torch.ones(3)
    return model


def save_authors_file(
    path: Path,
    state: dict[str, Tensor],
    beside: dict[str, Any],
    *,
    ema: dict[str, Tensor] | None = None,
    half: bool = True,
    change: Any = None,
    **options: Any,
) -> Path:
    """Write a file of the authors' programs.

    Args:
        path: of the file.
        state: tensors of the model, by the authors' names.
        beside: other entries of the file, such as `OF_A_RUN`.
        ema: tensors of the moving average, or none.
        half: in half precision, as the programs do.
        change: called with the model whose tensors are wanted, before it is written.
        **options: of `torch.save`.
    """
    with authors_classes() as classes:
        models = [build_model(x, classes) for x in (state, ema) if x is not None]
        for model in models:
            model.half() if half else model
        if change is not None:
            change(models[-1])
        file = {**beside, "model": models[0]}
        if ema is not None:
            file["ema"] = models[1]
        torch.save(file, path, **options)
    assert "models" not in sys.modules
    return path


def fold(weight: Tensor, bias: Tensor, add: Tensor, mul: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a prediction with its implicit knowledge, in double precision."""
    weight, bias, add, mul = (x.double() for x in (weight, bias, add, mul))
    shifted = bias + (weight[:, :, 0, 0] @ add.flatten())
    return (weight * mul.view(-1, 1, 1, 1)).float(), (shifted * mul.flatten()).float()


def to_deploy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the authors' conversion makes of a training file: folded heads, no auxiliary heads."""
    head = max(int(name.split(".")[1]) for name in state)
    num_levels = sum(1 for name in state if name.startswith(f"model.{head}.m.")) // 2
    auxiliary = any(name.startswith(f"model.{head}.m2.") for name in state)
    row = head - num_levels if auxiliary else head
    deployed = {k: v.clone() for k, v in state.items() if int(k.split(".")[1]) < row}
    for name in ("anchors", "anchor_grid"):
        if f"model.{head}.{name}" in state:
            deployed[f"model.{row}.{name}"] = state[f"model.{head}.{name}"]
    for i in range(num_levels):
        weight, bias = fold(
            *(state[f"model.{head}.m.{i}.{x}"] for x in ("weight", "bias")),
            *(state[f"model.{head}.{x}.{i}.implicit"] for x in ("ia", "im")),
        )
        deployed |= {f"model.{row}.m.{i}.weight": weight, f"model.{row}.m.{i}.bias": bias}
    return deployed


def fuse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the tensors after the authors' `fuse()`; the numbers do not matter."""
    fused = {}
    for name, value in state.items():
        if ".rbr_" in name:
            block = name.split(".rbr_")[0]
            if name.endswith("rbr_dense.0.weight"):
                fused[f"{block}.rbr_reparam.weight"] = value
                fused[f"{block}.rbr_reparam.bias"] = value[:, 0, 0, 0]
        elif name.endswith(".bn.bias"):
            fused[name.replace(".bn.", ".conv.")] = value
        elif ".bn." not in name:
            fused[name] = value
    return fused


def with_anchors(state: dict[str, Tensor], anchors: Tensor, strides: Sequence[int]) -> dict:
    """The constants of the head put before its other tensors."""
    head = max(int(name.split(".")[1]) for name in state)
    constants = {
        f"model.{head}.anchors": anchors / torch.tensor(strides).view(-1, 1, 1),
        f"model.{head}.anchor_grid": anchors.view(len(anchors), 1, -1, 1, 1, 2),
    }
    of_head = {k: v for k, v in state.items() if k.startswith(f"model.{head}.")}
    return {**{k: v for k, v in state.items() if k not in of_head}, **constants, **of_head}
