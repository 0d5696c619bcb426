"""A model that is exported in seconds, for the tests of export."""

from pathlib import Path

import torch
from torch import nn

from yolor_d2 import model_zoo
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model

# Tracing takes seconds a layer, so there are few of them: two levels, implicit at both places.
SMALL = """
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  YOLOR:
    NUM_CLASSES: 3
    CLASS_NAMES: ["disc", "ring", "box"]
    STEM: [["dwt"], ["conv", 8, 3, 2]]
    STAGES: [[8, 1], [8, 1], [16, 1]]
    NECK_WIDTHS: [8, 16]
    NECK_UNITS: 1
    ANCHORS: [[[12, 16], [40, 28]], [[76, 55], [192, 243]]]
    LOSS:
      BALANCE: [4.0, 1.0]
INPUT:
  MIN_SIZE_TEST: 96
  MAX_SIZE_TEST: 128
"""


# All further tasks, with implicit knowledge in those of masks and points.
TASKS = {
    "CLASSIFICATION.ENABLED": True,
    "EMBEDDING.ENABLED": True,
    "EMBEDDING.CHANNELS": 4,
    "EMBEDDING.DIMENSION": 4,
    "MASKS.ENABLED": True,
    "MASKS.IMPLICIT": "add",
    "MASKS.CHANNELS": 8,
    "MASKS.COEFFICIENTS": 4,
    "KEYPOINTS.ENABLED": True,
    "KEYPOINTS.IMPLICIT": "add",
    "KEYPOINTS.LAYERS": 0,
    "KEYPOINTS.DEPTHWISE": True,
    "KEYPOINTS.ORIGIN": "cell",
    "KEYPOINTS.REFINEMENTS": 0,
    "KEYPOINTS.NUM_KEYPOINTS": 3,
    "KEYPOINTS.NAMES": ["tip", "left", "right"],
    "KEYPOINTS.FLIP_PAIRS": [["left", "right"]],
    "KEYPOINTS.SKELETON": [["tip", "left"]],
}
JOINT = [word for key, value in TASKS.items() for word in (f"MODEL.YOLOR.TASKS.{key}", str(value))]


def write_small(folder: Path) -> str:
    """The path of its configuration."""
    base = model_zoo.get_config_file("yolor_ssss_s2d.yaml")
    path = folder / "small.yaml"
    path.write_text(SMALL.format(base=base))
    return str(path)


@torch.no_grad()
def enliven(model: nn.Module, bias: float = -2.0) -> None:
    """Statistics and predictions as after training: the image matters, and scores differ."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    features = model.eval().backbone(torch.rand(1, 3, 256, 256))
    for conv, name in zip(model.head.predict, model.in_features):
        spread = features[name].square().mean().sqrt() * conv.in_channels**0.5
        nn.init.normal_(conv.weight, std=1.5 / float(spread))
        nn.init.constant_(conv.bias, bias)
    for module in model.tasks.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=2.0)


def save_model(config_file: str, folder: Path, opts=(), bias: float = -2.0) -> list[str]:
    """Arguments of a command: a config with weights."""
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *opts])
    torch.manual_seed(0)  # whatever ran before
    model = build_model(cfg)
    enliven(model, bias)
    weights = folder / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    return ["--config-file", config_file, *opts, "MODEL.WEIGHTS", str(weights)]
