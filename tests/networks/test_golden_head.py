"""The head with implicit knowledge and auxiliary heads against recorded numbers."""

import golden_records
import pytest
import torch
from torch import nn

from yolor_d2.golden import uniform, weight
from yolor_d2.layers import build_implicit
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import AnchorHead
from yolor_d2.ops import decode, xyxy_to_cxcywh

CASE = "v7_iaux"
STRIDES = (8, 16)
ANCHORS = torch.tensor([[[12, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]]])
# The reference's names of the parts of a level.
PARTS = {"align": "ia", "predict": "m", "refine": "im", "auxiliary": "m2"}


@pytest.fixture(scope="module")
def record():
    return golden_records.load_record("blocks_v7")


@pytest.fixture(scope="module")
def parts(record):
    """Alignment and head with the recorded weights, in double precision."""
    head = AnchorHead([8, 12], strides=STRIDES, num_anchors=3, num_classes=4, auxiliary=(10, 6))
    align = nn.ModuleList(build_implicit("add", channels) for channels in (8, 12))
    module = nn.ModuleDict({"align": align, "head": head})
    kinds = {key: (shape, kind) for key, shape, kind in record[0][CASE]["keys"] if kind != "keep"}
    state = {}
    for key in module.state_dict():
        part, level, tensor = key.removeprefix("head.").split(".")
        theirs = f"{PARTS[part]}.{level}.{tensor.replace('z', 'implicit')}"
        state[key] = weight(f"{CASE}:{theirs}", *kinds.pop(theirs), norm_gain=1.0)
    assert not kinds
    module.load_state_dict(state)
    return module.double()


def features(record):
    shapes = record[0][CASE]["inputs"]
    maps = [4 * uniform(f"{CASE}:{i}:x", *shape) - 2 for i, shape in enumerate(shapes)]
    return [torch.from_numpy(x).float().double() for x in maps]


def assert_recorded(record, name, ours, atol=1e-5):
    expected = torch.from_numpy(record[1][f"{CASE}/{name}"]).double()
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


@torch.no_grad()
def test_leads_and_auxiliaries_equal_the_record(record, parts):
    x = features(record)
    aligned = [align(lead) for align, lead in zip(parts["align"], x)]
    levels = parts["head"]([*aligned, *x[2:]])
    for i in range(2):
        assert_recorded(record, f"raw{i}", levels[i])
        assert_recorded(record, f"aux_raw{i}", levels[2 + i])
    rows = decode(levels[:2], ANCHORS.double(), STRIDES)
    rows = torch.cat([xyxy_to_cxcywh(rows[..., :4]), rows[..., 4:]], dim=-1)
    assert_recorded(record, "decoded", rows, atol=1e-3)  # pixels


def test_folded_predictions_equal_the_record(record, parts):
    head = parts["head"]
    for i, layers in enumerate(zip(parts["align"], head.predict, head.refine)):
        (conv,) = (m for m in fuse_for_inference(nn.Sequential(*layers)) if m.state_dict())
        assert_recorded(record, f"fused_m{i}_weight", conv.weight, atol=1e-6)
        assert_recorded(record, f"fused_m{i}_bias", conv.bias, atol=1e-6)


@pytest.mark.parametrize("num_classes", [1, 80])
def test_biases_start_from_the_recorded_amounts(record, num_classes):
    """Of leads and auxiliaries alike."""
    amounts = record[0]["bias_init"][f"nc{num_classes}"]
    strides = [int(stride) for stride in amounts]
    channels, outputs = [4] * len(strides), 3 * (5 + num_classes)
    torch.manual_seed(0)
    defaults = [nn.Conv2d(4, outputs, 1) for _ in range(2 * len(strides))]  # PyTorch's own start
    torch.manual_seed(0)
    head = AnchorHead(
        channels,
        strides=strides,
        num_anchors=3,
        num_classes=num_classes,
        implicit="none",
        auxiliary=channels,
    )
    for conv, default, stride in zip([*head.predict, *head.auxiliary], defaults, strides * 2):
        added = (conv.bias - default.bias).view(3, 5 + num_classes)
        start = amounts[str(stride)]
        expected = torch.tensor([0, 0, 0, 0, start["obj"]] + [start["cls"]] * num_classes)
        torch.testing.assert_close(added, expected.expand(3, -1), atol=2e-6, rtol=0)
