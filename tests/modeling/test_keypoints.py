"""Keypoints in the meta-architecture: what goes in, what comes out, what is trained."""

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, build, build_finder, find, sample

from yolor_d2.d2.structures import Keypoints
from yolor_d2.engine.freeze import freeze
from yolor_d2.networks.branches.keypoints import correct_points, keypoints_of_rows
from yolor_d2.ops import decode
from yolor_d2.ops.padding import Placement
from yolor_d2.tasks import pack_fields

NODE = "MODEL.YOLOR.TASKS.KEYPOINTS"
POINTS = (f"{NODE}.ENABLED", True, f"{NODE}.NUM_KEYPOINTS", 2, f"{NODE}.LAYERS", 1)
POSE = (
    *(*POINTS, f"{NODE}.LAYOUT", "yolov7", f"{NODE}.LOSS", "oks", f"{NODE}.IMPLICIT", "add"),
    *(f"{NODE}.REFINEMENTS", 0, f"{NODE}.DEPTHWISE", True, f"{NODE}.ORIGIN", "cell"),
)


def pointed(points, *args, **options):
    """An input whose objects have these keypoints."""
    given = sample(*args, **options)
    found = torch.tensor(points, dtype=torch.float32).reshape(-1, 2, 3)
    given["instances"].gt_keypoints = Keypoints(found)
    return given


TWO = [[[26.0, 30.0, 2.0], [40.0, 41.0, 1.0]]]


@pytest.mark.parametrize("options", [POINTS, POSE], ids=["own layout", "yolov7"])
@pytest.mark.parametrize(
    "batch",
    [
        [pointed(TWO, ONE_BOX), pointed([], [])],
        [pointed([[0.0] * 6], ONE_BOX)] * 2,
        [sample([])] * 2,
    ],
    ids=["an object", "without points", "no boxes"],
)
def test_every_step_gives_the_same_losses_and_reaches_every_parameter(options, batch):
    model = build(*options)
    losses = model(batch)
    names = ["loss_keypoints", "loss_visibility", "loss_refinement"]
    assert list(losses) == [*LOSSES, *names[: 2 + (options is POINTS)]]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    has_points = any((x["instances"].has("gt_keypoints") and
                      x["instances"].gt_keypoints.tensor.any()) for x in batch)  # fmt: skip
    assert [losses[name] > 0 for name in names if name in losses] == [has_points] * (
        len(losses) - 3
    )
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gains_and_the_batch_weigh_the_losses():
    batch = [pointed(TWO, ONE_BOX)]
    first, second = (
        build(*POINTS),
        build(*POINTS, f"{NODE}.GAIN", 0.12, f"{NODE}.VISIBILITY_GAIN", 1),
    )
    for model in (first, second):
        model.eval()  # of the norms alone
        model.training = True
    one, two = first(batch), second(2 * batch)
    for name, factor in (("loss_keypoints", 3), ("loss_visibility", 100), ("loss_box", 1)):
        assert two[name].item() == pytest.approx(2 * factor * one[name].item(), rel=1e-5)


# ---- Ground truth


def test_points_move_with_the_image_and_those_outside_are_not_labelled():
    model = build(*POINTS)
    given = [
        pointed([[[64.0, 0.0, 2.0], [64.5, 3.0, 2.0]]], ONE_BOX),
        sample([]),
        pointed([[[5.0, 6.0, 0.0], [-0.1, 3.0, 1.0]], [[7.0, 8.0, 1.0], [0.0, 64.0, 2.0]]],
                2 * ONE_BOX),
    ]  # fmt: skip
    places = [Placement((64, 64), (10 * i, 5), (10 * i, 5)) for i in range(3)]
    packed = pack_fields(model.tasks, [x["instances"] for x in given], places, (96, 96))
    assert packed["keypoints"].tolist() == [
        [[69, 0, 2], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[12, 28, 1], [5, 84, 2]],
    ]


def test_what_training_lacks_is_named():
    with pytest.raises(KeyError, match="'gt_keypoints'"):
        build(*POINTS)([sample(ONE_BOX)])
    three = sample(ONE_BOX)
    three["instances"].gt_keypoints = Keypoints(torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match=r"has 3 keypoints, but .*NUM_KEYPOINTS is 2"):
        build(*POINTS)([three])


@pytest.mark.parametrize(
    ("key", "value"),
    [("LAYERS", -1), ("GAIN", -0.5), ("VISIBILITY_GAIN", -1.0), ("REFINEMENTS", -1)],
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(ValueError, match=rf"TASKS\.KEYPOINTS\.{key} is {value}"):
        build(*POINTS, f"{NODE}.{key}", value)


# ---- Detections


@pytest.mark.parametrize("options", [POINTS, POSE], ids=["own layout", "yolov7"])
def test_keypoints_are_those_of_the_rows_of_the_kept_boxes(options):
    model = build_finder(*options)
    given = sample([], seed=3)
    (found,) = find(model, given)
    assert found.pred_keypoints.shape == (len(found), 2, 3) and len(found) > 10
    with torch.no_grad():
        batch = model.stage([given])
        pixels = model.preprocess(batch).tensor
        levels, outputs = model.run(pixels, batch.geometry.window)
        rows = decode(levels, model.anchors, model.strides)[0]
        maps = [x[0] for x in outputs["keypoints"][: len(levels)]]
        points = keypoints_of_rows(maps, torch.arange(len(rows)), model.strides)
        if options is POINTS:
            near = outputs["keypoints"][-1]
            moved = correct_points(points[None, ..., :2], near, model.strides[0], 4)[0]
            assert not torch.allclose(moved, points[..., :2])
            points = torch.cat([moved, points[..., 2:]], dim=2)
    (placement,) = batch.images.placements
    boxes = placement.from_canvas(rows[:, :4]).clamp(0, 64)
    points[..., 0] -= placement.offset[1]
    points[..., 1] -= placement.offset[0]
    for box, expected in zip(found.pred_boxes.tensor, found.pred_keypoints):
        same = ((boxes - box).abs().amax(dim=1) < 1e-3).nonzero()[:, 0]
        assert len(same) and any(torch.allclose(points[i], expected, atol=1e-4) for i in same)
    (larger,) = find(model, {**given, "height": 128, "width": 96})
    wanted = found.pred_keypoints * torch.tensor([1.5, 2.0, 1.0])
    torch.testing.assert_close(larger.pred_keypoints, wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.heavy
def test_detection_is_that_of_the_detector():
    detector, joint = build_finder(), build_finder(*POINTS)
    joint.load_state_dict(detector.state_dict(), strict=False)
    (expected,), (found,) = find(detector, sample([])), find(joint, sample([]))
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and not expected.has("pred_keypoints")


@pytest.mark.heavy
def test_on_a_frozen_rest_the_branch_learns_alone():
    model = build(*POINTS)
    freeze(model, ["backbone", "head"])
    batch = [pointed(TWO, ONE_BOX)] * 2
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(list(model.tasks.parameters()))
    optimizer = torch.optim.Adam(trained, lr=0.01)
    losses = []
    for _ in range(30):
        loss = model(batch)["loss_keypoints"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in model.backbone.parameters())
