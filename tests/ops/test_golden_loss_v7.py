"""Assignment and losses of YOLOv7's and YOLOv5's recipes against numbers recorded from the
reference implementation in double precision.

The gains are those of the configurations that train such networks.
"""

import golden_records
import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.modeling import YOLOR
from yolor_d2.ops import assign, assign_targets, detection_losses

INFO, ARRAYS = golden_records.load_record("loss_v7")
# Case and configuration; tiny's gains are YOLOv5's too.
CASES = [
    ("plain_p5", "yolov7.yaml"),
    ("plain_p6", "yolov7_w6.yaml"),
    ("plain_tiny", "yolov7_tiny.yaml"),
    ("plain_tiny", "yolov5_s.yaml"),
]
# Relative.
TOLERANCE = 1e-9
GROUPS = {"xy": slice(0, 2), "wh": slice(2, 4), "obj": slice(4, 5), "cls": slice(5, None)}


def arguments(case):
    truth = case.image, case.boxes, case.labels
    return *truth, case.anchors, case.strides, case.grid_sizes, case.max_ratio


def load_gains(config, num_classes):
    opts = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", str(num_classes)]
    with torch.device("meta"):
        return YOLOR.from_config(load_config(config, opts))["gains"]


@pytest.mark.parametrize("name", INFO)
def test_plain_assignment(name):
    targets = assign_targets(*arguments(golden_records.V7LossCase(name, INFO[name], ARRAYS)))
    for i, level in enumerate(targets):
        rows = torch.stack([level.image, level.anchor, level.row, level.column, level.label], 1)
        assert torch.equal(rows, torch.from_numpy(ARRAYS[f"{name}/assign{i}"]).long())
        expected = torch.from_numpy(ARRAYS[f"{name}/tbox{i}"]).double()
        torch.testing.assert_close(level.box, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_losses_and_gradients(name, config, fixed_shape):
    case = golden_records.V7LossCase(name, INFO[name], ARRAYS)
    targets = assign(*arguments(case), fixed_shape=fixed_shape)
    gains = load_gains(config, case.classes)
    losses = detection_losses(case.levels, targets, case.anchors, case.strides, gains)
    total = sum(losses)
    terms = torch.stack([*losses, total]).detach().numpy()
    np.testing.assert_allclose(terms, ARRAYS[f"{name}/box_obj_cls_sum"], rtol=TOLERANCE)
    (total * case.batch).backward()
    for i, level in enumerate(case.levels):
        groups = [level.grad[..., group] for group in GROUPS.values()]
        norms = [group.norm().item() for group in groups]
        np.testing.assert_allclose(norms, ARRAYS[f"{name}/grad{i}_l2"], rtol=TOLERANCE)
        # A sum may cancel: its error is relative to the size of the summands.
        sums = np.array([group.sum().item() for group in groups])
        sizes = np.array([group.abs().sum().item() for group in groups])
        assert (np.abs(sums - ARRAYS[f"{name}/grad{i}_sum"]) <= TOLERANCE * sizes).all()
