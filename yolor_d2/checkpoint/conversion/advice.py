"""What to use instead of a file of weights that does not fit a network."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence

import torch

from ...networks import VARIANTS, build_network
from .cfg_scheme import cfg_names
from .names import CONSTANTS, COUNTER, rename_keys
from .yaml_scheme import KEYPOINTS, PROTOTYPES, yaml_names

Shapes = Mapping[str, Sequence[int]]

# Tensors of layers whose norms or branches the authors' `fuse()` has merged into a convolution.
FUSED = re.compile(r"model\.\d+\.(.+\.)?(conv\.bias|rbr_reparam\.\w+)")
# Parts that training has beyond inference: of our networks, and of the authors' files.
TRAINING_PARTS = {
    "implicit knowledge": r"(neck\.align|head\.refine)\.|model\.\d+\.(ia|im)\.",
    "auxiliary heads": r"(neck|head)\.auxiliary\.|model\.\d+\.m2\.",
}
# Schemes whose names are not ours.
NUMBERED = {"yaml": yaml_names, "cfg": cfg_names, "darknet": cfg_names}


def refuse_fused(names: Collection[str]) -> None:
    """Raise a ValueError for a file in which norms or branches are merged into convolutions."""
    fused = next((name for name in names if FUSED.fullmatch(name)), None)
    if fused is not None:
        raise ValueError(
            f"it is fused (it has {fused!r}): batch norms and branches are merged into "
            "convolutions and cannot be restored. Use the file that it was made of, in training or "
            "deploy form, which is fused when the model runs (MODEL.INFERENCE.OPTIMIZE)"
        )


def advise(scheme: str, shapes: Shapes, missing: Sequence[str], unused: Sequence[str]) -> str:
    """Say which network a file is for.

    Args:
        scheme: see `ConversionReport`.
        shapes: of all tensors of the file, by the names of the scheme.
        missing: names of the network that the file has not.
        unused: names of the file that the network has not.

    Returns:
        A sentence; "" when the file is for no published network, and not nearly for this one.
    """
    if any(KEYPOINTS.fullmatch(name) for name in unused):
        return (
            "It has the branch of keypoints of YOLOv7's pose network: use it as MODEL.WEIGHTS of "
            "configs/yolov7_w6_pose.yaml"
        )
    if any(PROTOTYPES.fullmatch(name) for name in unused):
        return (
            "It has the branch of masks of YOLOv7's network of masks: use it as MODEL.WEIGHTS of "
            "configs/yolov7_seg.yaml"
        )
    deploy = bool(missing) and not unused and all(map(is_training_part, missing))
    training = not missing and any(map(is_training_part, unused))
    words = ""
    if deploy:
        words = f"It has the form of a deploy file, without {training_parts(missing)}"
    elif training:
        words = f"It has the form of a training file, with {training_parts(unused)}"
    variants = find_variants(scheme, shapes)
    if variants:
        words += f"{': use' if words else 'It fits'} MODEL.YOLOR.VARIANT {' or '.join(variants)}"
    if deploy:
        words += (
            ". To train on from it, let it fit in part (--partial, MODEL.YOLOR.PARTIAL_WEIGHTS "
            "True): implicit knowledge then starts next to neutral, auxiliary heads at random"
        )
    return words


def is_training_part(name: str) -> bool:
    """Whether a tensor belongs to what inference does without."""
    return any(re.match(pattern, name) for pattern in TRAINING_PARTS.values())


def training_parts(names: Sequence[str]) -> str:
    """Which parts of training are among these tensors, in words."""
    return " and ".join(
        part
        for part, pattern in TRAINING_PARTS.items()
        if any(re.match(pattern, name) for name in names)
    )


def find_variants(scheme: str, shapes: Shapes) -> list[str]:
    """Published networks that a file is for; several where only constants tell them apart."""
    weights = {
        name: tuple(shape)
        for name, shape in shapes.items()
        if not (name.endswith(COUNTER) or CONSTANTS.search(name))
    }
    return [
        variant
        for variant in VARIANTS
        if (expected := variant_shapes(variant, scheme)).keys() == weights.keys()
        # The outputs, of axis 0 or 1, depend on the number of classes.
        and all(shape in (None, weights[name]) for name, shape in expected.items())
    ]


@functools.cache
def variant_shapes(variant: str, scheme: str) -> dict[str, tuple[int, ...] | None]:
    """Shapes of a published network's weights by their names in files of a scheme.

    None stands for a shape that depends on the number of classes. Empty when the network has no
    such names. Building all networks takes three seconds, so this is for errors.
    """
    with torch.device("meta"):
        network = build_network(variant)
    state = network.state_dict()
    names = {key: key for key in state}
    if scheme in NUMBERED:
        layers = NUMBERED[scheme]
        try:
            names = rename_keys(list(state), layers(network.backbone, network.neck, network.head))
        except ValueError:
            return {}
    return {
        names[key]: None if key.startswith("head.") else tuple(value.shape)
        for key, value in state.items()
        if not key.endswith(COUNTER)
    }
