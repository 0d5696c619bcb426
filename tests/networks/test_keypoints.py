"""Keypoints on plain tensors, on numbers written out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.layers import FORM_D, Implicit
from yolor_d2.networks import KeypointBranch
from yolor_d2.networks.branches import DetectedBoxes
from yolor_d2.networks.branches.keypoint_losses import (
    COCO_SIGMAS,
    NEARBY,
    NEARBY_KNEE,
    POINT_LOSSES,
    keypoint_losses,
    nearby_loss,
    scaled_errors,
    sigmas_of,
)
from yolor_d2.networks.branches.keypoints import correct_points, keypoints_of_rows
from yolor_d2.ops import assign, decode, xyxy_to_cxcywh
from yolor_d2.ops.ota import boxes_by_image
from yolor_d2.ops.padding import ImageView
from yolor_d2.ops.truth import Truth

WIDTHS, STRIDES = [4, 6], [8, 16]
LOG2 = math.log(2)


def build(**options):
    torch.manual_seed(1)
    given = {"strides": STRIDES, "num_anchors": 2, "num_keypoints": 3, "layers": 1, **options}
    return KeypointBranch(WIDTHS, form=FORM_D, **given)


def features(dtype=torch.float32):
    """Of two images of 32 x 32 pixels."""
    torch.manual_seed(0)
    return [torch.randn(2, c, 32 // s, 32 // s, dtype=dtype) for c, s in zip(WIDTHS, STRIDES)]


# ---- Loss


def test_sigmas_are_cocos_for_17_points():
    # Twice these, squared, are the variances in COCO's code: 0.026 of the nose, 0.089 of ankles.
    assert len(COCO_SIGMAS) == 17 and sigmas_of(17) == COCO_SIGMAS
    assert sigmas_of(4) == (0.1,) * 4
    assert sigmas_of(2, [1, 0.5]) == (1.0, 0.5)
    for wrong in ([0.1], [0.1, 0.0], [0.1, math.inf]):
        with pytest.raises(ValueError, match=r"KEYPOINTS\.SIGMAS is \[.*each of 2 points"):
            sigmas_of(2, wrong)


def test_errors_by_hand():
    points, wanted = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[4.0, 6.0], [0, 1]]])
    # d^2 = 25 and 1 for an object of 20 x 5: 25 / (4 * 100 * 0.01) and 1 / (4 * 100 * 0.0025).
    errors = scaled_errors(points, wanted, torch.tensor([100.0]), torch.tensor([0.1, 0.05]))
    torch.testing.assert_close(errors, torch.tensor([[6.25, 1.0]]))
    assert POINT_LOSSES["oks"](errors)[0, 1].item() == pytest.approx(1 - math.exp(-1))
    assert POINT_LOSSES["huber"](errors)[0, 0].item() == pytest.approx(math.sqrt(13.5) - 1)


def one_object(points, visible=(1, 2, 2), fixed_shape=False):
    """An image of 4 x 4 cells of 8 pixels with an object of 16 x 8 that has three points, in
    cells of its own; maps of logits for one anchor. Its centre lies in the middle of a cell, so
    that this is its only one.

    Returns:
        The maps, a leaf; the assignment; (1, 3, 3) keypoints.
    """
    boxes = torch.tensor([[12.0, 20.0, 16.0, 8.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    anchors = torch.tensor([[[16.0, 8.0]]])
    targets = assign(zero, boxes, zero, anchors, [8], [(4, 4)], fixed_shape=fixed_shape)
    found = torch.tensor([[[*xy, v] for xy, v in zip(points, visible)]]).float()
    return torch.zeros(1, 1, 4, 4, 3, 3, requires_grad=True), targets, found


POINTS = [(12.0, 20.0), (4.0, 28.0), (12.0, 12.0)]


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize("loss", POINT_LOSSES)
def test_losses_by_hand(loss, fixed_shape):
    maps, targets, found = one_object(POINTS, (1, 0, 2), fixed_shape)
    # Logits of 0 put every point half a cell left of and above the cell of column 1, row 2: at
    # (0.5, 1.5), (4, 12) in pixels. The points lie at (1.5, 2.5) and (1.5, 1.5); the second one
    # is not labelled. s = 2 * 1 cells, sigma = 0.5: e = d^2 / 2.
    assert int(targets.positives) == 1
    points, visibility = keypoint_losses([maps], targets, found, [8], [0.5] * 3, loss)
    cost = {"huber": lambda e: math.sqrt(1 + 2 * e) - 1, "oks": lambda e: 1 - math.exp(-e)}[loss]
    assert points.item() == pytest.approx((cost(1.0) + cost(0.5)) / 2)
    assert visibility.item() == pytest.approx(LOG2)
    (points + visibility).backward()
    touched = maps.grad[0, 0].abs().sum(dim=(2, 3)).nonzero()
    assert touched.tolist() == [[2, 1]]
    gradient = maps.grad[0, 0, 2, 1]
    assert gradient[1, :2].tolist() == [0, 0] and (gradient[0, :2] < 0).all()
    # Half of the way from 0 to the wanted 1, 0, 1, and a mean over three.
    torch.testing.assert_close(gradient[:, 2], torch.tensor([-0.5, 0.5, -0.5]) / 3)


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_right_points_cost_nothing(fixed_shape):
    maps, targets, found = one_object(POINTS, fixed_shape=fixed_shape)
    with torch.no_grad():
        # 2 t - 0.5 + (1, 2) = x / 8
        corner = torch.tensor([1.0, 2.0])
        maps[0, 0, 2, 1, :, :2] = (found[0, :, :2] / 8 - corner + 0.5) / 2
        maps[..., 2] = 20
    losses = keypoint_losses([maps], targets, found, [8], [0.1] * 3, "oks")
    assert all(loss.item() == pytest.approx(0, abs=1e-6) for loss in losses)


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize("value", [0.0, math.inf])
def test_objects_without_labelled_points_take_no_part(fixed_shape, value):
    maps, targets, found = one_object(POINTS, (0, 0, 0), fixed_shape)
    maps = (maps.detach() + value).requires_grad_()
    losses = keypoint_losses([maps], targets, found, [8], [0.1] * 3, "huber")
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert torch.equal(maps.grad, torch.zeros_like(maps))


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_no_object_at_all(fixed_shape):
    maps = torch.zeros(1, 1, 4, 4, 3, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    anchors = torch.tensor([[[16.0, 8.0]]])
    objects = none, torch.zeros(0, 4), none
    targets = assign(*objects, anchors, [8], [(4, 4)], fixed_shape=fixed_shape)
    losses = keypoint_losses([maps], targets, torch.zeros(0, 3, 3), [8], [0.1] * 3)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_far_points_have_a_gradient_with_huber_alone():
    """Six cells away from a point that OKS forgives a fifth of a cell."""
    gradients = {}
    for loss in POINT_LOSSES:
        maps, targets, found = one_object([(60.0, 20.0)] * 3)
        keypoint_losses([maps], targets, found, [8], [0.1] * 3, loss)[0].backward()
        gradients[loss] = maps.grad.abs().max().item()
    assert gradients["oks"] < 1e-30 and gradients["huber"] > 0.1


# ---- Decoding


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 10_000))
def test_points_of_rows_are_those_of_their_cells(num_anchors, num_keypoints, seed):
    torch.manual_seed(seed)
    sizes = [(2, 3), (1, 2)]
    levels = [torch.randn(num_anchors, *size, num_keypoints, 3) for size in sizes]
    expected = []
    for level, stride in zip(levels, STRIDES):
        for anchor in level:
            for row, cells in enumerate(anchor):
                for column, points in enumerate(cells):
                    expected.append(
                        [
                            [
                                (2 * float(x) - 0.5 + column) * stride,
                                (2 * float(y) - 0.5 + row) * stride,
                                1 / (1 + math.exp(-float(v))),
                            ]
                            for x, y, v in points
                        ]
                    )
    order = torch.randperm(len(expected))
    found = keypoints_of_rows(levels, order, STRIDES)
    torch.testing.assert_close(found, torch.tensor(expected)[order], rtol=1e-5, atol=1e-4)
    assert keypoints_of_rows(levels, order[:0], STRIDES).shape == (0, num_keypoints, 3)
    half = keypoints_of_rows([level.bfloat16() for level in levels], order, STRIDES)
    assert half.dtype == torch.float32


def test_decoded_points_are_in_the_wanted_size_and_not_cut():
    branch = build()
    output = [torch.zeros(2, 2, 4, 4, 3, 3), torch.zeros(2, 2, 2, 2, 3, 3)]
    # Cell (0, 0) of the first level, half a cell to the left and above; the last cell of the second
    # level, at (1.5 - 1) * 16 after its corner at 16.
    output[1][1, 1, 1, 1, :, :2] = 0.5
    view = ImageView((2, 4), (0.5, 2), (64, 16))
    found = DetectedBoxes(torch.tensor([0, 39]), torch.zeros(2, 4), view)
    decoded = branch.decode(output, 1, found)
    # ((-4 - 2) / 2, (-4 - 4) * 2) and ((24 - 2) / 2, (24 - 4) * 2)
    assert decoded[0].tolist() == [[-3, -16, 0.5]] * 3
    assert decoded[1].tolist() == [[11, 40, 0.5]] * 3


def test_objects_of_classes_without_points_give_none():
    branch = build()
    branch.classes = [2, 5]
    output = [torch.zeros(2, 2, 4, 4, 3, 3), torch.zeros(2, 2, 2, 2, 3, 3)]
    view = ImageView((0, 0), (1, 1), (32, 32))
    found = DetectedBoxes(torch.arange(3), torch.zeros(3, 4), view, torch.tensor([5, 1, 2]))
    decoded = branch.decode(output, 0, found)
    assert decoded[:, 0, 2].tolist() == [0.5, 0, 0.5]
    assert (branch.decode(output, 0, found._replace(labels=None))[..., 2] == 0.5).all()


# ---- Branch


def test_shapes_and_channels():
    branch = build().eval()
    output = branch(features(), torch.empty(0))
    assert [tuple(x.shape) for x in output] == [(2, 2, 4, 4, 3, 3), (2, 2, 2, 2, 3, 3)]
    # Each anchor has its own channels, each point three of them.
    plain = branch.predict[0](branch.convs[0](features()[0]))
    assert torch.equal(output[0][1, 1, 2, 3, 2, 0], plain[1, 1 * 9 + 2 * 3 + 0, 2, 3])
    depthwise = [x.conv.groups for x in branch.convs[1]]
    assert depthwise == [6, 1, 6]
    assert len(build(layers=0).convs[0]) == 1 and len(build(layers=5).convs[0]) == 11


@pytest.mark.parametrize("implicit", ["add", "mul network", "concat"])
def test_implicit_knowledge_takes_part_and_learns(implicit):
    branch = build(implicit=implicit)
    added = [x for x in branch.modules() if isinstance(x, Implicit)]
    assert len(added) == 2
    sum((x * torch.randn_like(x)).sum() for x in branch(features(), torch.empty(0))).backward()
    assert all(z.grad.abs().sum() > 0 for x in added for z in x.parameters())


def test_the_authors_layout_joins_all_channels_and_cuts_them_anew():
    branch = build(num_anchors=2, num_keypoints=2, layout="yolov7")
    # 2 * 6 channels of detection, 2 * 6 of points: the first anchor has all of the former, the
    # second one the latter.
    logits = torch.arange(12.0).view(1, 2, 6, 1, 1).permute(0, 1, 3, 4, 2)
    points = 100 + torch.arange(12.0).view(1, 2, 2, 3, 1, 1).permute(0, 1, 4, 5, 2, 3)
    auxiliary = torch.randn(1, 2, 1, 1, 6)
    levels, output = branch.share([logits, auxiliary], [points])
    assert levels[0].flatten().tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105]
    assert output[0].flatten().tolist() == [6, 7, 8, 9, 10, 11, 106, 107, 108, 109, 110, 111]
    assert levels[1] is auxiliary
    plain = build(num_keypoints=2)
    levels, output = plain.share([logits], [points])
    assert levels[0] is logits and output[0] is points


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_keypoints": 0}, r"KEYPOINTS\.NUM_KEYPOINTS is 0"),
        ({"origin": "here"}, r"KEYPOINTS\.ORIGIN is 'here', expected one of \['box', 'cell'\]"),
        ({"origin": "box", "layout": "yolov7"}, r"ORIGIN is 'box', expected 'cell' with LAYOUT"),
        ({"layout": "yolov8"}, r"KEYPOINTS\.LAYOUT is 'yolov8', expected one of \['', 'yolov7'\]"),
        ({"loss": "l1"}, r"KEYPOINTS\.LOSS is 'l1', expected one of \['huber', 'oks'\]"),
        ({"sigmas": [0.1]}, r"KEYPOINTS\.SIGMAS is \[0\.1\].*each of 3 points"),
    ],
)
def test_values_that_are_not_possible_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


# ---- The map that corrects points


def truth_of(points, boxes, valid=None):
    """Of one image; points (M, K, 3)."""
    image = torch.zeros(len(boxes), dtype=torch.int64)
    valid = torch.ones(len(boxes), dtype=torch.bool) if valid is None else torch.tensor(valid)
    by_image = boxes_by_image(image, 1, len(boxes))
    fields = {"keypoints": torch.tensor(points).float()}
    return Truth(image, torch.tensor(boxes).float(), image, valid, by_image, fields)


def perfect_map(points, size, stride):
    """(1, 2 K, H, W) that leads from every cell to (K, 2) points."""
    y, x = torch.meshgrid(*(torch.arange(s) + 0.5 for s in size), indexing="ij")
    centres = torch.stack([x, y])  # (2, H, W)
    return torch.cat([xy[:, None, None] / stride - centres for xy in points])[None]


def test_a_right_map_costs_nothing_and_leads_to_the_points():
    points = torch.tensor([[13.0, 21.5], [60.0, 3.0]])
    near = perfect_map(points, (6, 9), 8)
    known = torch.cat([points, torch.full((2, 1), 2.0)], dim=1)[None].tolist()
    truth = truth_of(known, [[36.0, 12.0, 50.0, 20.0]])
    assert nearby_loss(near, truth, 8, (0.1, 0.1)).item() == pytest.approx(0, abs=1e-6)
    # From anywhere between the centres of cells, of any number of detections.
    found = torch.rand(1, 7, 2, 2) * torch.tensor([64.0, 40.0]) + 4
    torch.testing.assert_close(correct_points(found, near, 8, 1), points.expand(1, 7, 2, 2))
    # Beyond them the nearest ones are asked, which say the way from themselves.
    moved = correct_points(torch.tensor([[[[-6.0, 20.0], [60.0, 4.0]]]]), near, 8, 1)
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([13.0 - 10, 21.5]))
    moved = correct_points(torch.tensor([[[[-6.0, 20.0], [60.0, 4.0]]]]), near, 8, 3)
    torch.testing.assert_close(moved[0, 0, 0], points[0])


def test_images_and_points_have_maps_of_their_own():
    torch.manual_seed(0)
    near, points = torch.randn(2, 6, 5, 7), torch.rand(2, 4, 3, 2) * 60 - 5
    together = correct_points(points, near, 8, 2)
    for n in range(2):
        for k in range(3):
            own = near[n : n + 1, 2 * k : 2 * k + 2]
            one = correct_points(points[n : n + 1, :, k : k + 1], own, 8, 2)
            torch.testing.assert_close(together[n, :, k], one[0, :, 0])
    grid = 2 * points.permute(0, 2, 1, 3).flatten(0, 1)[:, None] / torch.tensor([56.0, 40.0]) - 1
    wanted = torch.nn.functional.grid_sample(
        near.view(6, 2, 5, 7), grid, padding_mode="border", align_corners=False
    )
    wanted = points + 8 * wanted[:, :, 0].view(2, 3, 2, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(correct_points(points, near, 8, 1), wanted)


def test_the_loss_of_the_map_by_hand():
    # The point lies in the middle of cell (0, 1) of 4 x 4; 25 cells around it, of which 12 lie on
    # the map: columns 0 to 2, rows 0 to 3. s = 4 cells, sigma 0.5: e = d^2 / 4.
    near = torch.zeros(1, 4, 4, 4)
    near[0, :2] = math.inf  # of another point, which is not labelled
    near[0, 2:, :, 3] = math.inf  # too far away
    near.requires_grad_()
    truth = truth_of([[[20, 20, 0], [4, 12, 1]]], [[8.0, 8.0, 16.0, 16.0]])
    loss = nearby_loss(near, truth, 8, (0.5, 0.5))
    squares = [x**2 + y**2 for x in range(3) for y in range(-1, 3)]
    # A quarter of sqrt(1 + 2 e / (1 / 4)^2) - 1, with weights of exp(-d^2 / 2).
    terms = [(math.sqrt(1 + 8 * square) - 1) / 4 for square in squares]
    weights = [math.exp(-square / 2) for square in squares]
    mean = sum(term * weight for term, weight in zip(terms, weights)) / sum(weights)
    assert NEARBY == 2 and NEARBY_KNEE == 0.25 and loss.item() == pytest.approx(mean)
    loss.backward()
    assert near.grad.isfinite().all() and not near.grad[0, :2].any()
    assert near.grad[0, 2:].abs().sum(dim=0).nonzero().shape == (11, 2)  # all but the point's own


@pytest.mark.parametrize("truth", [
    truth_of([[[20, 20, 0]]], [[8.0, 8.0, 16.0, 16.0]]),
    truth_of([[[20, 20, 2]]], [[8.0, 8.0, 0.0, 0.0]], valid=[False]),
    truth_of(torch.zeros(0, 1, 3).numpy(), torch.zeros(0, 4).numpy()),
], ids=["not labelled", "no object", "none"])  # fmt: skip
def test_without_points_the_map_learns_nothing(truth):
    near = torch.full((1, 2, 4, 4), math.inf, requires_grad=True)
    loss = nearby_loss(near, truth, 8, (0.1,))
    loss.backward()
    assert loss.item() == 0 and torch.equal(near.grad, torch.zeros_like(near))


def test_the_branch_with_the_map():
    x = features()
    branch, plain = build(refinements=1).eval(), build().eval()
    assert set(branch.by_data) == {*plain.by_data, "near.2.weight", "near.2.bias"}
    plain.load_state_dict({k: v for k, v in branch.state_dict().items() if k in plain.state_dict()})
    output, levels = branch(x, None), plain(x, None)
    assert output[-1].shape == (2, 6, 4, 4) and len(output) == 3
    assert all(torch.equal(a, b) for a, b in zip(output, levels))
    rows, view = torch.tensor([3, 37]), ImageView((0, 0), (1, 1), (32, 32))
    found = DetectedBoxes(rows, torch.zeros(2, 4), view)
    with torch.no_grad():
        for image in range(2):
            before, after = plain.decode(levels, image, found), branch.decode(output, image, found)
            near = output[-1][image : image + 1]
            wanted = correct_points(before[None, ..., :2], near, 8, 1)[0]
            torch.testing.assert_close(after[..., :2], wanted)
            assert torch.equal(after[..., 2], before[..., 2])
        points, scores = branch.export(output)
        torch.testing.assert_close(points[1, rows], branch.decode(output, 1, found)[..., :2])
        assert torch.equal(scores, plain.export(levels)[1])


def test_points_as_seen_from_the_box():
    anchors = torch.tensor([[[16.0, 8.0], [8.0, 24.0]], [[40.0, 40.0], [64.0, 32.0]]])
    branch, plain = build(origin="box", anchors=anchors).eval(), build().eval()
    plain.load_state_dict(branch.state_dict())
    x = features()
    logits = [torch.randn(2, 2, s, s, 6, requires_grad=True) for s in (4, 2)]
    raw = plain(x, None)
    shared, output = branch.share(logits, branch(x, None))
    assert all(a is b for a, b in zip(shared, logits))
    boxes = xyxy_to_cxcywh(decode(logits, anchors, STRIDES)[..., :4])[1]  # (R, 4)
    rows = torch.arange(len(boxes))
    found = DetectedBoxes(rows, boxes, ImageView((0, 0), (1, 1), (32, 32)))
    points = branch.decode(output, 1, found)
    told = torch.cat([level[1].flatten(0, 2) for level in raw])  # (R, K, 3)
    wanted = boxes[:, None, :2] + 0.25 * told[..., :2] * boxes[:, None, 2:]
    torch.testing.assert_close(points[..., :2], wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(points[..., 2], told[..., 2].sigmoid())
    # Boxes learn nothing from the points.
    sum(level.sum() for level in output).backward()
    assert all(level.grad is None for level in logits)
    assert branch.predict[0].weight.grad.any()


def test_whole_convolutions():
    branch = build(layers=2, depthwise=False)
    assert [conv.conv.groups for conv in branch.convs[0]] == [1, 1]
    assert [conv.conv.groups for conv in build(layers=2).convs[0]] == [4, 1, 4, 1, 4]
