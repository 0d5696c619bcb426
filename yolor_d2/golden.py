"""Records of the reference implementation, and the rule for their inputs and weights.

A record holds outputs. Inputs and weights are not stored: both sides draw them by one rule, from
uniform numbers that a text key determines (`uniform`). Weights are drawn under the key that the
reference uses for them.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# The records' own float32 runs differ from their double runs by the record's "tolerance_info";
# another order of the sums may cost a multiple of that.
FLOAT32_FACTOR = 20


def load_record(folder: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Description and arrays of one record.

    Raises:
        FileNotFoundError: when the folder has no record of that name.
    """
    info = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz") as arrays:
        return info, dict(arrays)


def uniform(key: str, *shape: int) -> np.ndarray:
    """Float64 numbers in [0, 1) that depend on the key alone."""
    raw = np.random.Philox(key=zlib.crc32(key.encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def image(tag: str, shape: Iterable[int]) -> Tensor:
    """(N, C, H, W) float32 image in 0-1 with fine, middle and coarse structure."""
    n, c, h, w = shape
    total = np.zeros((n, c, h, w))
    for size, weight in ((1, 0.2), (8, 0.3), (32, 0.5)):
        cells = uniform(f"{tag}:{size}", n, c, h // size, w // size)
        total += weight * cells.repeat(size, axis=2).repeat(size, axis=3)
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


def network_weights(info: dict, arrays: dict) -> dict[str, Tensor]:
    """Weights of a recorded network under the reference's names; running statistics are stored."""
    stored = {
        "bn_mean": torch.from_numpy(arrays["bn_running_mean"]),
        "bn_var": torch.from_numpy(arrays["bn_running_var"]),
    }
    used = dict.fromkeys(stored, 0)
    weights = {}
    for key, shape, kind in info["keys"]:
        if kind in stored:
            start, used[kind] = used[kind], used[kind] + shape[0]
            weights[key] = stored[kind][start : used[kind]].clone()
        elif kind != "keep":
            weights[key] = weight(key, shape, kind, norm_gain=0.3)
        elif key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(0)
    return weights
