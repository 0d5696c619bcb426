"""Assignments and losses of YOLOv7's and YOLOv5's recipes against numbers recorded from the
reference implementation in double precision.

Assignment and gains are those of the configurations that train such networks. How many candidates
each box took is not to be seen from outside: of that the slow version in `ota_reference` is sure.
"""

import sys

import golden_records
import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from ops import ota_reference

from yolor_d2.config import load_config
from yolor_d2.modeling import YOLOR
from yolor_d2.modeling.batch import Truth
from yolor_d2.ops import assign, assign_targets, detection_losses
from yolor_d2.ops.ota import boxes_by_image

INFO, ARRAYS = golden_records.load_record("loss_v7")
CONFIGS = {"p5": "yolov7.yaml", "p6": "yolov7_w6.yaml", "tiny": "yolov7_tiny.yaml"}
CASES = [(name, CONFIGS[info["anchors"]]) for name, info in INFO.items()]
# Tiny's gains are YOLOv5's too.
CASES.append(("plain_tiny", "yolov5_s.yaml"))
PLAIN = [name for name, info in INFO.items() if info["kind"] == "plain"]
# Prefix of the records and candidates of a box.
HEADS = [
    (name, prefix, candidates)
    for name, info in INFO.items()
    for prefix, candidates in (("", 3), ("aux_", 5))
    if info["kind"] == "aux" or (info["kind"] == "ota" and candidates == 3)
]
# Relative.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
GROUPS = {"xy": slice(0, 2), "wh": slice(2, 4), "obj": slice(4, 5), "cls": slice(5, None)}


def load_case(name, dtype=torch.float64):
    return golden_records.V7LossCase(name, INFO[name], ARRAYS, dtype)


def arguments(case):
    truth = case.image, case.boxes, case.labels
    return *truth, case.anchors, case.strides, case.grid_sizes, case.max_ratio


def from_config(config, num_classes, *opts):
    """Assigner, gains and the weight of the auxiliary heads."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", str(num_classes), *opts]
    with torch.device("meta"):
        made = YOLOR.from_config(load_config(config, opts))
    return made["assigner"], made["gains"], made["auxiliary_gain"]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_assignment(name):
    targets = assign_targets(*arguments(load_case(name)))
    for i, level in enumerate(targets):
        rows = torch.stack([level.image, level.anchor, level.row, level.column, level.label], 1)
        assert torch.equal(rows, torch.from_numpy(ARRAYS[f"{name}/assign{i}"]).long())
        expected = torch.from_numpy(ARRAYS[f"{name}/tbox{i}"]).double()
        torch.testing.assert_close(level.box, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "prefix", "candidates"), HEADS)
def test_candidates(name, prefix, candidates):
    targets = assign(*arguments(load_case(name)), candidates=candidates, fixed_shape=False)
    for i, level in enumerate(targets.per_level()):
        rows = torch.stack([level.image, level.anchor, level.row, level.column], 1)
        assert rows.tolist() == ARRAYS[f"{name}/{prefix}cand{i}"].tolist()


@pytest.mark.parametrize(("name", "prefix", "candidates"), HEADS)
def test_the_slow_version_counts_and_chooses_as_recorded(name, prefix, candidates):
    case = load_case(name)
    image, boxes, anchors = case.image.numpy(), case.boxes.numpy(), case.anchors.numpy()
    rows = ota_reference.find_candidates(
        image, boxes, anchors, case.strides, case.grid_sizes, case.max_ratio, candidates
    )
    levels = [level.detach().numpy() for level in case.levels]
    truth = boxes, case.labels.numpy(), anchors, case.strides, image
    top_ious = 20 if INFO[name]["kind"] == "aux" else 10
    found = ota_reference.choose(rows, levels, *truth, top_ious=top_ious)
    assert found.counts == ARRAYS[f"{name}/{prefix}dyn_k"].tolist()
    for i in range(len(levels)):
        ours = [
            [row.image, row.anchor, row.row, row.column, row.box]
            for row in found.rows
            if row.level == i
        ]
        assert ours == ARRAYS[f"{name}/{prefix}assign{i}"].tolist()


@pytest.fixture(params=[False, True], ids=["free shapes", "fixed shapes"])
def fixed_shape(request, monkeypatch):
    """As on a CPU, and as on a GPU."""
    if request.param:
        module = sys.modules["yolor_d2.ops.assign"]  # `ops.assign` is the function
        monkeypatch.setattr(module, "shapes_may_depend_on_values", lambda _: False)
    return request.param


def assert_assignment(targets, name, prefix, fixed_shape):
    """Whether the positives and their boxes are the recorded ones."""
    assert (targets.valid is not None) == fixed_shape
    level, image, anchor, row, column, number = (
        field if targets.valid is None else field[targets.valid]
        for field in (targets.level, *targets[2:6], targets.number)
    )
    counts = [len(ARRAYS[f"{name}/{prefix}assign{i}"]) for i in range(len(targets.sizes))]
    assert targets.positives.tolist() == counts
    rows = torch.stack([image, anchor, row, column, number], dim=1)
    for i in range(len(counts)):
        ours = rows[level == i]
        ours = ours[ours[:, 0].argsort(stable=True)]
        assert ours.tolist() == ARRAYS[f"{name}/{prefix}assign{i}"].tolist()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "config"), CASES)
def test_assignment_losses_and_gradients(name, config, dtype, fixed_shape):
    case, kind, tolerance = load_case(name, dtype), INFO[name]["kind"], TOLERANCE[dtype]
    opts = ["MODEL.YOLOR.ASSIGN.KIND", "anchors"] if kind == "plain" else []
    assigner, gains, share = from_config(config, case.classes, *opts)
    by_image = boxes_by_image(case.image, case.batch)
    valid = torch.ones(len(case.image), dtype=torch.bool)
    truth = Truth(case.image, case.boxes, case.labels, valid, by_image)
    grid = case.anchors, case.strides
    targets, further = assigner(case.levels, case.auxiliary, truth, *grid)
    losses = detection_losses(case.levels, targets, *grid, gains)
    if kind != "plain":
        assert_assignment(targets, name, "", fixed_shape)
    if kind == "aux":
        assert_assignment(further, name, "aux_", fixed_shape)
        auxiliary = detection_losses(case.auxiliary, further, *grid, gains)
        losses = [lead + share * aux for lead, aux in zip(losses, auxiliary)]

    total = sum(losses)
    terms = torch.stack([*losses, total]).detach().numpy()
    np.testing.assert_allclose(terms, ARRAYS[f"{name}/box_obj_cls_sum"], rtol=tolerance)
    (total * case.batch).backward()
    for i, level in enumerate([*case.levels, *case.auxiliary]):
        groups = [level.grad[..., group].double() for group in GROUPS.values()]
        norms = [group.norm().item() for group in groups]
        np.testing.assert_allclose(norms, ARRAYS[f"{name}/grad{i}_l2"], rtol=tolerance)
        # A sum may cancel: its error is relative to the size of the summands.
        sums = np.array([group.sum().item() for group in groups])
        sizes = np.array([group.abs().sum().item() for group in groups])
        assert (np.abs(sums - ARRAYS[f"{name}/grad{i}_sum"]) <= tolerance * sizes).all()
