"""What comparing with the records in `golden/` needs beyond `yolor_d2.golden`.

`record_golden.py` made the records.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yolor_d2 import golden
from yolor_d2.checkpoint.conversion.cfg_scheme import cfg_block_walk
from yolor_d2.checkpoint.conversion.names import rename_keys
from yolor_d2.checkpoint.conversion.yaml_scheme import yaml_leaves, yaml_rows
from yolor_d2.golden import uniform, weight
from yolor_d2.layers import Implicit
from yolor_d2.networks.variants import ANCHORS_640, ANCHORS_640_V5, ANCHORS_1280
from yolor_d2.ops import LossGains

GOLDEN = Path(__file__).parent / "golden"


def load_record(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Description and arrays of one record."""
    return golden.load_record(GOLDEN, name)


# ---- Weights of blocks


def block_state(case: str, keys: list, block: nn.Module) -> dict[str, Tensor]:
    """State dict of a recorded block under our names."""
    if isinstance(block, Implicit):
        ours = {"implicit": "z"}
    else:
        kinds = {"D_": d_block_names, "v7": v7_block_names}
        names = kinds.get(case[:2], y_block_names)(block)
        theirs = rename_keys(list(block.state_dict()), names)
        ours = {name: key for key, name in theirs.items()}
    state = {}
    for key, shape, kind in keys:
        if kind != "keep":
            state[ours[key]] = weight(f"{case}:{key}", shape, kind, norm_gain=1.0)
        elif key in ours:  # num_batches_tracked
            state[ours[key]] = torch.tensor(0)
    return state


def y_block_names(block: nn.Module) -> dict[str, str]:
    """Layers of a block of form Y, ours to the reference's; the block has no number there."""
    leaves = dict(yaml_leaves("", block, ""))
    return {ours.removeprefix("."): theirs.removeprefix(".") for ours, theirs in leaves.items()}


def d_block_names(block: nn.Module) -> dict[str, str]:
    """Layers of a block of form D and of the convolution before it, ours to the reference's."""
    names = {}
    for number, step in enumerate(cfg_block_walk("", block)):
        if step is not None:
            path = step[0].removeprefix(".")
            names[f"{path}.conv"] = f"module_list.{number}.Conv2d"
            names[f"{path}.norm"] = f"module_list.{number}.BatchNorm2d"
    return names


def v7_block_names(block: nn.Module) -> dict[str, str]:
    """Layers of a block of YOLOv7, ours to the reference's; row 0 is the input."""
    names = {}
    parts = block.named_children() if isinstance(block, nn.Sequential) else [("", block)]
    rows = [step for path, part in parts for step in yaml_rows(f".{path}".rstrip("."), part)]
    for number, step in enumerate(rows, start=1):
        if step is not None:
            names.update(yaml_leaves(*step, str(number)))
    return {ours.removeprefix("."): theirs for ours, theirs in names.items()}


# ---- Cases of assignment and losses

ANCHORS = {
    **{"p6": ANCHORS_1280, "csp": ANCHORS_640},
    **{"p5": ANCHORS_640, "tiny": ANCHORS_640_V5},
}
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


class V7LossCase:
    """Inputs of one case of YOLOv7's assignments and losses.

    Attributes: see `LossCase`, without gains; `auxiliary` are the logits of the auxiliary heads.
    """

    def __init__(self, name: str, info: dict, arrays: dict[str, np.ndarray], dtype: torch.dtype):
        height, width = info["image_hw"]
        self.batch, self.classes = info["batch"], info["nc"]
        self.anchors = torch.tensor(ANCHORS[info["anchors"]], dtype=dtype)
        self.strides = [8 * 2**i for i in range(len(self.anchors))]
        self.grid_sizes = [(height // stride, width // stride) for stride in self.strides]
        outputs = []
        for i, (h, w) in enumerate(self.grid_sizes * (2 if info["kind"] == "aux" else 1)):
            logits = uniform(f"{name}:p{i}", self.batch, 3, h, w, 5 + self.classes) * 6 - 3
            logits[..., :4] /= 3
            logits[..., 4] -= 1
            outputs.append(torch.from_numpy(logits).float().to(dtype).requires_grad_())
        self.levels = outputs[: len(self.strides)]
        self.auxiliary = outputs[len(self.strides) :]
        targets = torch.from_numpy(arrays[f"{name}/targets"]).to(dtype)
        self.image, self.labels = targets[:, 0].long(), targets[:, 1].long()
        self.boxes = targets[:, 2:] * torch.tensor([width, height, width, height])
        self.max_ratio = info["hyp"]["anchor_t"]
