"""Names of tensors in the authors' files, derived from the network that is to receive them.

The authors number the layers of a whole network, in two ways:

- "yaml" (branch `paper`, YOLOv7, YOLOv5): `model.<layer>.<field>`, one number for each block of
  ours, but for the blocks of YOLOv7, whose layers have a number each;
- "cfg" (branch `main`, darknet): `module_list.<layer>.<kind>`, one number for each convolution,
  sum, concatenation, pool and so on.

`yaml_scheme.py` and `cfg_scheme.py` hold them. Both orders are a walk over backbone, neck and head,
so they hold for any width and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

# What files hold beside weights: anchors belong to the configuration, filters of the Haar transform
# are constants.
CONSTANTS = re.compile(r"(^|\.)(anchors|anchor_grid)$|\.xfm\.h[01]_(col|row)$")
# Batches that a norm has seen: without effect, and left out by some programs.
COUNTER = "num_batches_tracked"

# Our modules in the order of the file: the path of each, or None for a layer without weights that
# has a number too.
Walk = Iterator[tuple[str, nn.Module] | None]


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


def rename_keys(keys: Sequence[str], layers: Mapping[str, str]) -> dict[str, str]:
    """Names of tensors, ours to theirs.

    Args:
        keys: of our state dict.
        layers: of `yaml_names` or `cfg_names`.

    Raises:
        ValueError: when a layer has no name in the scheme.
    """
    names = {}
    for key in keys:
        layer, _, tensor = key.rpartition(".")
        if layer not in layers:
            raise ValueError(f"it has no counterpart of the layer {layer!r}")
        names[key] = f"{layers[layer]}.{'implicit' if tensor == 'z' else tensor}"
    return names
