"""Overlaps, assignment, losses, gradients and NMS against recorded numbers.

The numbers were recorded from the reference implementation in float32, with 1e-5 as relative
tolerance.
"""

import golden_records
import numpy as np
import pytest
import torch

from yolor_d2.ops import (
    assign,
    assign_targets,
    cxcywh_to_xyxy,
    detect,
    detection_losses,
    paired_iou,
)

INFO, ARRAYS = golden_records.load_record("ops")
NMS_CASES = [key.removeprefix("nms_") for key in INFO if key.startswith("nms_")]
# Gradients are recorded by these groups of the last axis.
GROUPS = {"xy": slice(0, 2), "wh": slice(2, 4), "obj": slice(4, 5), "cls": slice(5, None)}


def load_case(name):
    return golden_records.LossCase(name, INFO[name], ARRAYS)


def arguments(case):
    """What the functions of assignment take."""
    truth = case.image, case.boxes, case.labels
    return *truth, case.anchors, case.strides, case.grid_sizes, case.max_ratio


def recorded(key):
    return torch.from_numpy(ARRAYS[key])


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_overlaps(kind):
    a, b = (
        torch.from_numpy(4 * golden_records.uniform(f"iou:{side}", 200, 4) + 0.05).float()
        for side in "ab"
    )
    overlap = paired_iou(a, b, kind)
    torch.testing.assert_close(overlap, recorded(f"iou/{kind}"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", golden_records.LOSS_CASES)
def test_assignment_has_the_same_rows_in_the_same_order(name):
    targets = assign_targets(*arguments(load_case(name)))
    assert len(targets) == len(INFO[name]["assigned_per_level"])
    for i, level in enumerate(targets):
        rows = torch.stack([level.image, level.anchor, level.row, level.column, level.label], 1)
        assert len(rows) == INFO[name]["assigned_per_level"][i]
        assert torch.equal(rows, recorded(f"{name}/assign{i}").long())
        torch.testing.assert_close(level.box, recorded(f"{name}/tbox{i}"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize("name", golden_records.LOSS_CASES)
def test_losses_and_gradients(name, fixed_shape):
    """Also with a row for every possible match, as it is computed on a GPU."""
    case = load_case(name)
    targets = assign(*arguments(case), fixed_shape=fixed_shape)
    assert (targets.valid is not None) == fixed_shape
    losses = detection_losses(case.levels, targets, case.anchors, case.strides, case.gains)
    total = sum(losses)
    terms = torch.stack([*losses, total]).detach()
    torch.testing.assert_close(terms, recorded(f"{name}/box_obj_cls_sum"), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        total.detach().reshape(1) * case.batch,
        recorded(f"{name}/total_times_bs"),
        rtol=1e-5,
        atol=0,
    )

    (total * case.batch).backward()
    for i, level in enumerate(case.levels):
        gradient = level.grad
        l2 = [gradient[..., group].double().norm().item() for group in GROUPS.values()]
        sums = [gradient[..., group].double().sum().item() for group in GROUPS.values()]
        np.testing.assert_allclose(l2, ARRAYS[f"{name}/grad{i}_l2"], rtol=1e-5, atol=1e-9)
        # A sum may cancel: its error is relative to the size of the summands.
        close_to_sum = np.abs(np.array(sums) - ARRAYS[f"{name}/grad{i}_sum"])
        magnitude = [gradient[..., group].abs().sum().item() for group in GROUPS.values()]
        assert (close_to_sum <= 1e-5 * np.array(magnitude) + 1e-9).all()
        if f"{name}/grad{i}" in ARRAYS:  # the two coarsest levels are recorded in full
            expected = recorded(f"{name}/grad{i}")
            scale = expected.abs().max().item()
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("name", NMS_CASES)
def test_suppression(name):
    info = INFO[f"nms_{name}"]
    size = info["size"]
    d = golden_records.uniform(f"nms:{name}", *info["shape"])
    centres, sizes = d[..., :2] * size, 8 * (size / 16) ** d[..., 2:4]
    objectness, classes = d[..., 4:5] ** 2, d[..., 5:] ** 12
    rows = torch.from_numpy(np.concatenate([centres, sizes, objectness, classes], axis=-1)).float()
    rows = torch.cat([cxcywh_to_xyxy(rows[..., :4]), rows[..., 4:]], dim=-1)
    for i, image_rows in enumerate(rows):
        found = detect(
            image_rows,
            score_threshold=info["conf_thres"],
            iou_threshold=info["iou_thres"],
            class_agnostic=info.get("agnostic", False),
            classes=info.get("classes"),
        )
        expected = recorded(f"nms/{name}{i}")  # x1, y1, x2, y2, score, class
        assert len(found.labels) == info["kept"][i]
        assert torch.equal(found.labels, expected[:, 5].long())
        torch.testing.assert_close(found.boxes, expected[:, :4], rtol=0, atol=1e-4)
        torch.testing.assert_close(found.scores, expected[:, 4], rtol=1e-6, atol=0)
