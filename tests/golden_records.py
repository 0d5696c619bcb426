"""Numbers recorded from the reference implementation, and what comparing with them needs.

The records in `golden/` hold outputs. Inputs and weights are not stored: both sides draw them by
one rule, from uniform numbers that a text key determines (`uniform`). Weights are drawn under the
key that the reference uses for them; the tables here say what each is called in this package.
`record_golden.py` made the records.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolor_d2.networks.variants import ANCHORS_640, ANCHORS_1280
from yolor_d2.ops import LossGains

GOLDEN = Path(__file__).parent / "golden"


def load_record(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Description and arrays of one record."""
    info = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return info, dict(arrays)


# ---- Rules for inputs and weights


def uniform(key: str, *shape: int) -> np.ndarray:
    """Float64 numbers in [0, 1) that depend on the key alone."""
    raw = np.random.Philox(key=zlib.crc32(key.encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def image(tag: str, shape: Iterable[int]) -> Tensor:
    """(N, C, H, W) float32 image in 0-1 with fine, middle and coarse structure."""
    n, c, h, w = shape
    total = np.zeros((n, c, h, w))
    for size, share in ((1, 0.2), (8, 0.3), (32, 0.5)):
        cells = uniform(f"{tag}:{size}", n, c, h // size, w // size)
        total += share * cells.repeat(size, axis=2).repeat(size, axis=3)
    return torch.from_numpy(total).float()


def weight(key: str, shape: list[int], kind: str, norm_gain: float) -> Tensor:
    """One float32 weight; `norm_gain` scales the weights of batch norms."""
    u = uniform(key, *shape)
    s = 2 * u - 1
    if kind == "conv_weight":
        values = s * math.sqrt(3 / math.prod(shape[1:]))
    elif kind == "conv_bias":
        values = 0.5 * s
    elif kind == "bn_weight":
        values = norm_gain * (0.75 + 0.5 * u)
    elif kind in ("bn_bias", "bn_mean"):
        values = 0.1 * s
    elif kind == "bn_var":
        values = 0.5 + u
    elif kind == "implicit_add":
        values = 0.25 * s
    elif kind == "implicit_mul":
        values = 1 + 0.25 * s
    else:
        raise ValueError(f"no rule for a weight of kind {kind!r}")
    return torch.from_numpy(values).float()


def block_state(case: str, keys: list, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """State dict of a recorded block under our names."""
    state = {}
    for key, shape, kind in keys:
        if kind == "keep":  # num_batches_tracked
            state[rename(key)] = torch.tensor(0)
        else:
            state[rename(key)] = weight(f"{case}:{key}", shape, kind, norm_gain=1.0)
    return state


def network_state(info: dict, arrays: dict, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """State dict of a recorded network under our names; its running statistics are stored."""
    stored = {
        "bn_mean": torch.from_numpy(arrays["bn_running_mean"]),
        "bn_var": torch.from_numpy(arrays["bn_running_var"]),
    }
    used = dict.fromkeys(stored, 0)
    state = {}
    for key, shape, kind in info["keys"]:
        if kind in stored:
            start, used[kind] = used[kind], used[kind] + shape[0]
            state[rename(key)] = stored[kind][start : used[kind]]
        elif kind != "keep":
            state[rename(key)] = weight(key, shape, kind, norm_gain=0.3)
        elif key.endswith("num_batches_tracked"):
            state[rename(key)] = torch.tensor(0)
    return state


# ---- Names: fields of the blocks, reference to ours. "m." marks fields of the repeated units.

STAGE = {
    "cv1": "entry",
    "cv2": "split",
    "cv3": "transition",
    "bn": "merge.norm_act.0",
    "cv4": "merge.output",
    "m.cv1": "reduce",
    "m.cv2": "expand",
}
NECK_BLOCK = {
    "cv1": "entry",
    "cv2": "split",
    "bn": "merge.norm_act.0",
    "cv3": "merge.output",
    "m.cv1": "0",
    "m.cv2": "1",
}
SPP = {
    "cv1": "before.0",
    "cv3": "before.1",
    "cv4": "before.2",
    "cv5": "after.0",
    "cv6": "after.1",
    "cv2": "split",
    "bn": "merge.norm_act.0",
    "cv7": "merge.output",
}
IMPLICIT = {"implicit": "z"}

Y_BLOCKS = {
    "Y_spp": SPP,
    "Y_cspc": STAGE,
    "Y_cspf": STAGE,
    "Y_plain": NECK_BLOCK,
    "implicit_a": IMPLICIT,
    "implicit_m": IMPLICIT,
}


def y_block_key(fields: dict[str, str], key: str) -> str:
    """Such as "m.1.cv2.bn.weight" of a stage to "units.1.expand.norm.weight"."""
    match = re.fullmatch(r"(?:m\.(\d+)\.)?([a-z]+\d?)(.*)", key)
    assert match, key
    unit, field, rest = match.groups()
    rest = rest.replace(".bn.", ".norm.")
    if unit is None:
        return fields[field] + rest
    return f"units.{unit}.{fields[f'm.{field}']}{rest}"


# Form D numbers the layers of the whole network, so that a block is known by the number of its
# first one. Routes and sums have numbers too, which is why some are skipped.


def d_stage(name: str, first: int, units: int, transition: bool) -> dict[int, str]:
    """A backbone block: split, entry, units, transition where there is one, output."""
    layers = {first: f"{name}.split", first + 2: f"{name}.entry"}
    for i in range(units):
        layers[first + 3 + 3 * i] = f"{name}.units.{i}.reduce"
        layers[first + 4 + 3 * i] = f"{name}.units.{i}.expand"
    after = first + 3 + 3 * units
    if transition:
        return layers | {after: f"{name}.transition", after + 2: f"{name}.merge.output"}
    return layers | {after + 1: f"{name}.merge.output"}


def d_neck_block(name: str, first: int, units: int) -> dict[int, str]:
    """A neck block: entry, split, pairs, output."""
    layers = {first: f"{name}.entry", first + 1: f"{name}.split"}
    layers |= {first + 3 + i: f"{name}.units.{i // 2}.{i % 2}" for i in range(2 * units)}
    return layers | {first + 4 + 2 * units: f"{name}.merge.output"}


def d_spp(name: str, first: int) -> dict[int, str]:
    """The pooling block: split, three before the pools, two after them, output."""
    layers = {first: f"{name}.split", first + 14: f"{name}.merge.output"}
    layers |= {first + 2 + i: f"{name}.before.{i}" for i in range(3)}
    return layers | {first + 11 + i: f"{name}.after.{i}" for i in range(2)}


# Layer 0 of these records is a plain convolution before the block; ours is
# Sequential(convolution, block).
D_BLOCKS = {
    "D_cspf": {0: "0", **d_stage("1", 1, units=2, transition=False)},
    "D_cspc": {0: "0", **d_stage("1", 1, units=2, transition=True)},
    "D_plain": {0: "0", **d_neck_block("1", 1, units=2)},
    "D_spp": {0: "0", **d_spp("1", 1)},
}


def d_key(layers: dict[int, str], key: str) -> str:
    """Such as "module_list.11.Conv2d.weight" of `D_cspf` to "1.merge.output.conv.weight"."""
    _, layer, rest = key.split(".", 2)
    ours = layers[int(layer)]
    if rest == "implicit":
        return f"{ours}.z"
    kind, name = rest.split(".")
    if ours.startswith("head.predict"):  # a bare convolution
        return f"{ours}.{name}"
    return f"{ours}.{'conv' if kind == 'Conv2d' else 'norm'}.{name}"


# ---- Names: layers of YOLOR-P6, reference to ours; with the fields of the layer if it is a block.

CONV = {"conv": "conv", "bn": "norm"}
P6_LAYERS = {
    1: ("backbone.stem.1", CONV),
    2: ("backbone.stem.2", CONV),
    3: ("backbone.stages.0.1", STAGE),
    4: ("backbone.stages.1.0", CONV),
    5: ("backbone.stages.1.1", STAGE),
    6: ("backbone.stages.2.0", CONV),
    7: ("backbone.stages.2.1", STAGE),
    8: ("backbone.stages.3.0", CONV),
    9: ("backbone.stages.3.1", STAGE),
    10: ("backbone.stages.4.0", CONV),
    11: ("backbone.stages.4.1", STAGE),
    12: ("neck.spp", SPP),
    # Top-down, coarse to fine: reduce (before the up-sampling), lateral, block.
    13: ("neck.reduce.2", CONV),
    15: ("neck.lateral.2", CONV),
    17: ("neck.top_down.2", NECK_BLOCK),
    18: ("neck.reduce.1", CONV),
    20: ("neck.lateral.1", CONV),
    22: ("neck.top_down.1", NECK_BLOCK),
    23: ("neck.reduce.0", CONV),
    25: ("neck.lateral.0", CONV),
    27: ("neck.top_down.0", NECK_BLOCK),
    # Bottom-up, fine to coarse: output of the level, down, block of the next level.
    28: ("neck.output.0", CONV),
    29: ("neck.down.0", CONV),
    31: ("neck.bottom_up.0", NECK_BLOCK),
    32: ("neck.output.1", CONV),
    33: ("neck.down.1", CONV),
    35: ("neck.bottom_up.1", NECK_BLOCK),
    36: ("neck.output.2", CONV),
    37: ("neck.down.2", CONV),
    39: ("neck.bottom_up.2", NECK_BLOCK),
    40: ("neck.output.3", CONV),
}
P6_HEAD = 41
P6_HEAD_PARTS = {"m": "head.predict", "ia": "neck.align", "im": "head.refine"}


def p6_key(key: str) -> str:
    """Such as "model.40.bn.weight" to "neck.output.3.norm.weight"."""
    _, layer, rest = key.split(".", 2)
    if int(layer) == P6_HEAD:
        part, level, name = rest.split(".")
        return f"{P6_HEAD_PARTS[part]}.{level}.{'z' if name == 'implicit' else name}"
    ours, fields = P6_LAYERS[int(layer)]
    return f"{ours}.{y_block_key(fields, rest)}"


# ---- Names: layers of YOLOR-CSP (form D), reference to ours

CSP_LAYERS = {
    **{0: "backbone.stem.0", 1: "backbone.stem.1"},
    **{2: "backbone.stem.2.reduce", 3: "backbone.stem.2.expand", 5: "backbone.stem.3"},
    **d_stage("backbone.stages.0.1", 6, units=2, transition=True),
    **{18: "backbone.stages.1.0", **d_stage("backbone.stages.1.1", 19, 8, transition=True)},
    **{49: "backbone.stages.2.0", **d_stage("backbone.stages.2.1", 50, 8, transition=True)},
    **{80: "backbone.stages.3.0", **d_stage("backbone.stages.3.1", 81, 4, transition=True)},
    **d_spp("neck.spp", 99),
    **{114: "neck.reduce.1", 117: "neck.lateral.1", **d_neck_block("neck.top_down.1", 119, 2)},
    **{128: "neck.reduce.0", 131: "neck.lateral.0", **d_neck_block("neck.top_down.0", 133, 2)},
    **{142: "neck.down.0", **d_neck_block("neck.bottom_up.0", 144, 2)},
    **{153: "neck.down.1", **d_neck_block("neck.bottom_up.1", 155, 2)},
    **{164: "neck.align.0", 165: "neck.align.1", 166: "neck.align.2"},
    **{167: "head.refine.0", 168: "head.refine.1", 169: "head.refine.2"},
    **{171: "neck.output.0", 177: "neck.output.1", 183: "neck.output.2"},
    **{173: "head.predict.0", 179: "head.predict.1", 185: "head.predict.2"},
}


def csp_key(key: str) -> str:
    """Such as "module_list.183.BatchNorm2d.weight" to "neck.output.2.norm.weight"."""
    return d_key(CSP_LAYERS, key)


# ---- Cases of assignment and losses

ANCHORS = {"p6": ANCHORS_1280, "csp": ANCHORS_640}
LOSS_CASES = ["p6", "csp", "empty", "nc1", "focal", "edge"]


class LossCase:
    """Inputs of one recorded case.

    Attributes:
        levels: logits (N, A, H, W, 5 + K) per level, leaves that want a gradient.
        image, boxes, labels: (M,), (M, 4) cxcywh in input pixels, (M,).
        anchors: (L, A, 2) in input pixels.
        gains: weights of the terms.
    """

    def __init__(self, name: str, info: dict, arrays: dict[str, np.ndarray]):
        height, width = info["image_hw"]
        self.batch = info["batch"]
        self.anchors = torch.tensor(ANCHORS[info["kind"]], dtype=torch.float32)
        self.strides = [8 * 2**i for i in range(len(self.anchors))]
        self.grid_sizes = [(height // stride, width // stride) for stride in self.strides]
        self.levels = []
        for i, (h, w) in enumerate(self.grid_sizes):
            logits = uniform(f"{name}:p{i}", self.batch, 3, h, w, 5 + info["nc"]) * 6 - 3
            logits[..., 4] -= 3  # objectness is rare
            self.levels.append(torch.from_numpy(logits).float().requires_grad_())
        targets = torch.from_numpy(arrays[f"{name}/targets"])  # image, class, normalised cxcywh
        self.image, self.labels = targets[:, 0].long(), targets[:, 1].long()
        self.boxes = targets[:, 2:] * torch.tensor([width, height, width, height])
        hyp = info["hyp"]
        self.max_ratio = hyp["anchor_t"]
        self.gains = LossGains(
            box=hyp["box"],
            objectness=hyp["obj"],
            classes=hyp["cls"],
            focal_gamma=hyp["fl_gamma"],
        )
