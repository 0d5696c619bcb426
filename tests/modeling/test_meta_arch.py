"""The meta-architecture: what goes in and what comes out, in training and at inference."""

import pytest
import torch
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.d2.utils import EventStorage
from yolor_d2.modeling import YOLOR, YOLORPAN, ImplicitAnchorHead, YOLORBottomUp
from yolor_d2.networks import VARIANTS
from yolor_d2.networks.network import anchors_tensor, build_backbone, build_neck
from yolor_d2.ops import assign_targets, detection_losses, xyxy_to_cxcywh

LOSSES = ["loss_box", "loss_objectness", "loss_classes"]
ONE_BOX = [[24.0, 24.0, 44.0, 44.0]]


def build(*opts, num_classes=3):
    """The small model of the zoo."""
    torch.manual_seed(0)
    common = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", str(num_classes)]
    return build_model(load_config("yolor_ssss_s2d.yaml", [*common, *map(str, opts)]))


def build_finder(*opts):
    """A model for inference that finds something: no bias towards the background."""
    model = build(*opts).eval()
    for conv in model.head.predict:
        nn.init.zeros_(conv.bias)
        nn.init.normal_(conv.weight, std=0.3)  # so that scores differ clearly
    return model


def freeze_norms(model):
    """Running statistics instead of those of the batch: images no longer influence each other."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def image(height=64, width=64, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator).byte()


def sample(boxes, labels=None, **image_options):
    """An input with ground truth."""
    pixels = image(**image_options)
    truth = Instances(tuple(pixels.shape[1:]))
    truth.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    truth.gt_classes = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return {"image": pixels, "instances": truth}


def find(model, *inputs):
    with torch.no_grad():
        return [output["instances"] for output in model(list(inputs))]


def assert_same(found, expected, count=None, **tolerance):
    """The first detections agree; exactly without a tolerance."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert len(expected) > 10
    for a, b in [
        (found.pred_boxes.tensor, expected.pred_boxes.tensor),
        (found.scores, expected.scores),
        (found.pred_classes, expected.pred_classes),
    ]:
        torch.testing.assert_close(a[:count], b[:count], **tolerance)


# ---- Construction


def test_is_built_without_a_configuration():
    row = VARIANTS["yolor_ssss_s2d"]
    bottom_up = YOLORBottomUp(build_backbone(row, in_channels=3))
    backbone = YOLORPAN(bottom_up, build_neck(row, bottom_up.body.channels))
    shapes = backbone.output_shape().values()
    head = ImplicitAnchorHead(
        in_channels=[shape.channels for shape in shapes],
        strides=[shape.stride for shape in shapes],
        num_anchors=3,
        num_classes=2,
    )
    model = YOLOR(backbone=backbone, head=head, anchors=anchors_tensor(row.anchors, 3))
    assert sorted(model([sample(ONE_BOX)] * 2)) == sorted(LOSSES)


def test_configuration_arrives():
    model = build(
        *("MODEL.YOLOR.LOSS.BOX", 0.1, "MODEL.YOLOR.LOSS.OBJECTNESS", 0.2),
        *("MODEL.YOLOR.LOSS.CLASSES", 0.3, "MODEL.YOLOR.LOSS.FOCAL_GAMMA", 1.5),
        *("MODEL.YOLOR.ASSIGN_MAX_RATIO", 3.0, "MODEL.YOLOR.SCORE_THRESHOLD", 0.4),
        *("MODEL.YOLOR.NMS_THRESHOLD", 0.5, "MODEL.YOLOR.CLASS_AGNOSTIC_NMS", True),
        *("TEST.DETECTIONS_PER_IMAGE", 7, "INPUT.FORMAT", "BGR"),
    )
    gains = model.gains
    assert (gains.box, gains.objectness, gains.classes) == (0.1, 0.2, 0.3)
    assert gains.focal_gamma == 1.5
    assert (model.assigner.max_ratio, model.score_threshold, model.nms_threshold) == (3.0, 0.4, 0.5)
    assert (model.class_agnostic_nms, model.max_detections) == (True, 7)
    assert model.input_format == "BGR"


def test_constants_are_not_part_of_the_weights():
    names = build().state_dict().keys()
    assert not [name for name in names if "pixel" in name or "anchors" in name]
    assert {name.split(".")[0] for name in names} == {"backbone", "head"}


# ---- Training


@pytest.mark.parametrize(
    "batch",
    [[ONE_BOX, ONE_BOX], [ONE_BOX, []], [[], []]],
    ids=["boxes everywhere", "one image without boxes", "no boxes at all"],
)
def test_every_step_gives_the_same_losses_and_reaches_every_parameter(batch):
    model = build()
    losses = model([sample(boxes) for boxes in batch])
    assert list(losses) == LOSSES
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


CORNERS = [[0, 0, 16, 16], [48, 0, 64, 16], [0, 48, 16, 64], [48, 48, 64, 64]]
EDGES = [[0, 0, 64, 64], [63, 63, 64, 64], [0, 0, 1, 64], [0, 63, 64, 64]]


@pytest.mark.parametrize(
    ("num_classes", "batch"),
    [
        (1, [sample(ONE_BOX)] * 2),
        (3, [sample(ONE_BOX * 300, labels=[0, 1, 2] * 100)] * 2),
        (3, [sample(CORNERS + EDGES)] * 2),
        (3, [sample([[0, 0, 1, 1]], height=1, width=1)] * 2),
        (3, [sample(ONE_BOX), sample(ONE_BOX, height=50, width=90)]),
    ],
    ids=["one class", "300 boxes", "boxes on the border", "1 x 1 images", "two sizes"],
)
def test_losses_are_finite_at_the_edges(num_classes, batch):
    losses = build(num_classes=num_classes)(batch)
    assert all(loss.isfinite() for loss in losses.values())
    # One class needs no class term; everything else has one, if any anchor matches.
    assert (losses["loss_classes"] == 0) == (num_classes == 1 or batch[0]["image"].shape[1] == 1)


def test_losses_are_those_of_ops_times_the_batch():
    model = freeze_norms(build())
    batch = [sample(CORNERS, [0, 1, 2, 0]), sample(ONE_BOX, [1], seed=1)]
    images = torch.stack([x["image"] for x in batch]) / 255
    levels = model.head(list(model.backbone(images).values()))
    targets = assign_targets(
        torch.tensor([0, 0, 0, 0, 1]),
        xyxy_to_cxcywh(torch.tensor([*CORNERS, *ONE_BOX])),
        torch.tensor([0, 1, 2, 0, 1]),
        model.anchors,
        [8, 16, 32],
        [(8, 8), (4, 4), (2, 2)],  # 64 px
    )
    expected = detection_losses(levels, targets, model.anchors, [8, 16, 32])
    losses = model(batch)
    for name, term in zip(LOSSES, expected):
        assert losses[name].item() == pytest.approx(2 * term.item(), rel=1e-6)


def test_two_copies_of_an_image_give_twice_the_losses():
    model = freeze_norms(build())
    one = model([sample(ONE_BOX)])
    two = model([sample(ONE_BOX)] * 2)
    for name in LOSSES:
        assert two[name].item() == pytest.approx(2 * one[name].item(), rel=1e-5)


def test_two_processes_double_the_losses(monkeypatch):
    # Detectron2 averages gradients over the processes; the recipe wants their sum.
    model = freeze_norms(build())
    one = model([sample(ONE_BOX)])
    monkeypatch.setattr("yolor_d2.modeling.meta_arch.comm.get_world_size", lambda: 2)
    two = model([sample(ONE_BOX)])
    for name in LOSSES:
        assert two[name].item() == pytest.approx(2 * one[name].item(), rel=1e-6)


def test_positives_are_written_to_an_open_storage():
    # The box is 20 x 20 around (34, 34). On p3 it fits all three anchors (12 x 16, 19 x 36,
    # 40 x 28) and lies at cell 4.25: its own, the left and the upper cell. On p4 it fits 36 x 75
    # and 76 x 55 (75 / 20 < 4) but not 72 x 146, and lies at 2.125: again three cells. On p5 the
    # smallest anchor is 142 x 110.
    model = build()
    with EventStorage() as storage:
        model([sample(ONE_BOX), sample([])])
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {"positives/p3": 3 * 3, "positives/p4": 2 * 3, "positives/p5": 0}


def test_training_without_ground_truth_is_an_error():
    with pytest.raises(KeyError, match=r"'instances'.*model\.eval\(\)"):
        build()([sample(ONE_BOX), {"image": image()}])


# ---- Inference


def test_the_image_alone_is_enough():
    model = build_finder("TEST.DETECTIONS_PER_IMAGE", 50)
    (found,) = find(model, {"image": image(50, 90)})
    assert found.image_size == (50, 90)
    boxes = found.pred_boxes.tensor
    assert len(boxes) == 50
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 90 and boxes[:, 3].max() <= 50
    assert (found.scores.diff() <= 0).all()  # best first
    assert found.pred_classes.dtype == torch.int64
    assert set(found.pred_classes.tolist()) <= {0, 1, 2}


def test_bytes_and_floats_give_the_same():
    model = build_finder()
    (found,) = find(model, {"image": image()})
    (expected,) = find(model, {"image": image().float()})
    assert_same(found, expected)


def test_evaluation_is_deterministic():
    model = build_finder()
    assert_same(find(model, {"image": image()})[0], find(model, {"image": image()})[0])


def test_wanted_size_scales_the_boxes():
    model = build_finder()
    (plain,) = find(model, {"image": image()})
    (scaled,) = find(model, {"image": image(), "height": 128, "width": 192})
    assert scaled.image_size == (128, 192)
    # 128 / 64 and 192 / 64 are whole, so the products are exact.
    factors = torch.tensor([3.0, 2.0, 3.0, 2.0])
    assert torch.equal(scaled.pred_boxes.tensor, plain.pred_boxes.tensor * factors)
    assert torch.equal(scaled.scores, plain.scores)


@pytest.mark.heavy
def test_a_batch_of_several_sizes_equals_its_images_one_by_one():
    # All have a canvas of 96 x 96, alone as well as together: 64, 50 and 49 pixels and half a
    # stride of 32.
    inputs = [{"image": image(h, w, seed=h)} for h, w in [(64, 64), (50, 60), (64, 49)]]
    model = build_finder()
    together = find(model, *inputs)
    for found, single in zip(together, inputs):
        (alone,) = find(model, single)
        assert found.image_size == tuple(single["image"].shape[1:])
        assert_same(found, alone, count=20, rtol=1e-4, atol=1e-3)  # sums in another order


PADDING = "MODEL.YOLOR.PADDING"


@pytest.mark.parametrize(
    ("options", "canvas", "top", "left"),
    [
        # 40 and 60 pixels at stride 32 and half a stride more: 1.75 and 2.375 strides, rounded up.
        ((), (64, 96), 12, 18),
        ((f"{PADDING}.MARGIN", 0.0), (64, 64), 12, 2),
        ((f"{PADDING}.PLACE", "corner"), (64, 64), 0, 0),
        ((f"{PADDING}.PLACE", "reference"), (64, 96), 12, 18),
    ],
)
def test_the_border_is_grey_114(options, canvas, top, left):
    model = build("MODEL.PIXEL_MEAN", [14.0] * 3, "MODEL.PIXEL_STD", [50.0] * 3, *options).eval()
    images = model.preprocess([{"image": image(40, 60)}])
    assert images.tensor.shape == (1, 3, *canvas)
    assert images.image_sizes == [(40, 60)]
    inside = torch.zeros(canvas, dtype=torch.bool)
    inside[top : top + 40, left : left + 60] = True
    assert (images.tensor[0, :, ~inside] == (114 - 14) / 50).all()
    shown = images.tensor[0, :, inside].view(3, 40, 60)
    torch.testing.assert_close(shown, (image(40, 60) - 14.0) / 50)


def test_boxes_of_centred_images_are_those_of_the_image():
    """They are what a network finds that is given the canvas as its image, shifted and cut."""
    canvas = torch.full((3, 96, 96), 114, dtype=torch.uint8)
    given = image(40, 60)
    canvas[:, 28:68, 18:78] = given
    options = "TEST.DETECTIONS_PER_IMAGE", 3000
    other = {"image": image(64, 64)}  # which makes the canvas of both higher
    (found, _) = find(build_finder(*options), {"image": given}, other)
    plain = build_finder(*options, f"{PADDING}.PLACE", "corner")
    (whole, _) = find(plain, {"image": canvas}, {"image": canvas})
    boxes = whole.pred_boxes.tensor - torch.tensor([18.0, 28.0, 18.0, 28.0])
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([60.0, 40.0, 60.0, 40.0]))
    left = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    assert 10 < left.sum() < len(whole)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes[left], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.scores, whole.scores[left], rtol=1e-5, atol=0)


def test_training_puts_boxes_where_the_images_are():
    """Images of two sizes: the smaller one lies in the middle of the batch, its box with it."""
    boxes = [[4.0, 6.0, 24.0, 36.0]]
    batch = [sample(boxes, height=64, width=64), sample(boxes, height=40, width=32)]
    moved = torch.full((3, 64, 64), 114, dtype=torch.uint8)
    moved[:, 12:52, 16:48] = batch[1]["image"]
    by_hand = sample([[20.0, 18.0, 40.0, 48.0]], height=64, width=64)
    by_hand["image"] = moved
    found, expected = (freeze_norms(build())([batch[0], x]) for x in (batch[1], by_hand))
    for name in LOSSES:
        assert torch.equal(found[name], expected[name])


def test_an_unknown_place_is_named():
    with pytest.raises(ValueError, match=r"PADDING\.PLACE is 'left', expected one of"):
        build(f"{PADDING}.PLACE", "left")
    with pytest.raises(ValueError, match=r"PADDING\.MARGIN is -1"):
        build(f"{PADDING}.MARGIN", -1.0)


def test_an_image_of_one_pixel():
    (found,) = find(build_finder(), {"image": image(1, 1)})
    assert found.image_size == (1, 1)
    assert found.pred_boxes.tensor.isfinite().all()


def test_a_whole_batch_may_be_empty_of_detections():
    model = build_finder("MODEL.YOLOR.SCORE_THRESHOLD", 1.0)
    for found in find(model, {"image": image()}, {"image": image()}):
        assert found.pred_boxes.tensor.shape == (0, 4)
        assert found.scores.shape == found.pred_classes.shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_dropped(value):
    model = build_finder()
    (before,) = find(model, {"image": image()})
    with torch.no_grad():
        model.head.predict[0].weight.fill_(value)
        model.head.predict[1].weight[:, ::2].fill_(value)
    (found,) = find(model, {"image": image()})
    assert len(before) > len(found) > 0  # what the third level finds is left
    assert found.pred_boxes.tensor.isfinite().all() and found.scores.isfinite().all()


def test_a_hopeless_network_finds_nothing():
    model = build_finder()
    for conv in model.head.predict:
        nn.init.constant_(conv.weight, float("nan"))
    assert len(find(model, {"image": image()})[0]) == 0


def test_images_of_twelve_channels():
    model = build("MODEL.PIXEL_MEAN", [0.0] * 12, "MODEL.PIXEL_STD", [255.0] * 12)
    losses = model([sample(ONE_BOX, channels=12)] * 2)
    assert all(loss.isfinite() for loss in losses.values())
    assert find(model.eval(), {"image": image(channels=12)})[0].image_size == (64, 64)


def test_channels_last_changes_the_memory_and_not_the_losses():
    plain, last = (freeze_norms(build(*opts)) for opts in ([], ["MODEL.CHANNELS_LAST", True]))
    assert last.head.predict[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert last.preprocess([sample(ONE_BOX)]).tensor.is_contiguous(
        memory_format=torch.channels_last
    )
    losses = [model.train()([sample(ONE_BOX)]) for model in (plain, last)]
    for name in LOSSES:
        assert losses[1][name].item() == pytest.approx(losses[0][name].item(), rel=1e-4)
    # Weights of one form fit the other.
    last.load_state_dict(plain.state_dict())
    assert last.head.predict[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_sparse_coefficients_add_their_norm_to_the_loss():
    place = ("MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT", "add factorization")
    model = build(*place, "MODEL.YOLOR.IMPLICIT.SPARSITY", 0.5)
    losses = model([sample(ONE_BOX)])
    # Three levels with two coefficients of 1 / 2 each.
    assert losses.pop("loss_implicit").item() == pytest.approx(0.5 * 3 * 1)
    assert list(losses) == LOSSES
    assert "loss_implicit" not in build(*place)([sample(ONE_BOX)])
