"""Masks in the meta-architecture: losses, outputs, what waits and what does not."""

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, build, build_finder, find, sample

from yolor_d2.config import load_config
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.structures import BitMasks, Instances, PolygonMasks
from yolor_d2.engine.freeze import freeze
from yolor_d2.modeling.inference import prepare_for_inference
from yolor_d2.ops.masks import BoxMasks

NODE = "MODEL.YOLOR.TASKS.MASKS"
MASKS = (f"{NODE}.ENABLED", True, f"{NODE}.IMPLICIT", "mul", f"{NODE}.COEFFICIENTS", 8)


def masked(boxes, outlined=True, **options):
    """An input whose objects are diamonds in their boxes."""
    given = sample(boxes, **options)
    outlines = [
        [np.array([(x1 + x2) / 2, y1, x2, (y1 + y2) / 2, (x1 + x2) / 2, y2, x1, (y1 + y2) / 2])]
        for x1, y1, x2, y2 in boxes
    ]
    given["instances"].gt_masks = PolygonMasks([x if outlined else [] for x in outlines])
    return given


@pytest.mark.parametrize(
    "batch",
    [
        [masked(ONE_BOX), masked([])],
        [masked(ONE_BOX, outlined=False)] * 2,
        [masked([])] * 2,
        [masked(ONE_BOX * 600), masked(ONE_BOX)],
    ],
    ids=["a mask", "none known", "no boxes", "a crowd"],
)
def test_every_step_gives_the_same_losses_and_reaches_every_parameter(batch):
    model = build(*MASKS)
    losses = model(batch)
    assert list(losses) == [*LOSSES, "loss_masks"]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    known = any(
        x["instances"].gt_masks.polygons and x["instances"].gt_masks.polygons[0] for x in batch
    )
    assert (losses["loss_masks"].item() > 0) == known


@pytest.mark.heavy
def test_detection_is_that_of_the_detector_and_masks_lie_in_their_boxes():
    detector, joint = build_finder(), build_finder(*MASKS)
    joint.load_state_dict(detector.state_dict(), strict=False)
    given = {**sample([]), "height": 96, "width": 128}
    (expected,), (found,) = find(detector, given), find(joint, given)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    masks = found.pred_masks
    assert isinstance(masks, BoxMasks) and masks.shape == (len(found), 96, 128)
    assert 0 < masks.tensor.float().mean() < 1
    for mask, (x1, y1, x2, y2) in zip(masks, found.pred_boxes.tensor.tolist()):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        if len(rows):
            assert y1 <= rows[0] + 0.5 and rows[-1] + 0.5 <= y2
            assert x1 <= columns[0] + 0.5 and columns[-1] + 0.5 <= x2
    assert torch.equal(found[3:5].pred_masks.tensor, masks.tensor[3:5])
    assert len(Instances.cat([found[:2], found[4:]]).pred_masks) == len(found) - 2


def test_polygons_and_pixels_teach_the_same():
    polygons = [masked([[8.0, 16.0, 40.0, 56.0]])]
    model = build(*MASKS)
    # On the borders of pixels of the map, so that both are exact.
    outline = np.array([8.0, 16, 40, 16, 40, 56, 8, 56])
    polygons[0]["instances"].gt_masks = PolygonMasks([[outline]])
    pixels = [masked([[8.0, 16.0, 40.0, 56.0]])]
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 16:56, 8:40] = True
    pixels[0]["instances"].gt_masks = BitMasks(mask)
    one, two = (model(x)["loss_masks"].item() for x in (polygons, pixels))
    assert one == two > 0


def test_the_field_is_named_where_it_is_missing():
    with pytest.raises(KeyError, match=r"'gt_masks'.*'segmentation'"):
        build(*MASKS)([sample(ONE_BOX)])


@pytest.mark.parametrize(("key", "value"), [("GAIN", -1.0), ("COEFFICIENTS", 0), ("POSITIVES", 0)])
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(ValueError, match=rf"TASKS\.MASKS\.{key} is {value}"):
        build(*MASKS, f"{NODE}.{key}", value)


@pytest.mark.heavy
def test_half_precision_and_fused_layers():
    cfg = load_config("yolor_ssss_s2d.yaml", ["MODEL.INFERENCE.OPTIMIZE", "True"])
    model, given = build_finder(*MASKS), sample([])
    (expected,) = find(model, given)
    (fused,) = find(prepare_for_inference(model, cfg), given)
    differ = expected[:20].pred_masks.tensor != fused[:20].pred_masks.tensor
    assert torch.equal(fused.pred_classes[:20], expected.pred_classes[:20])
    assert differ.float().mean() < 1e-3
    cfg.MODEL.INFERENCE.DTYPE = "bfloat16"
    (half,) = find(prepare_for_inference(model, cfg), given)
    assert half.pred_masks.tensor.any()


@pytest.mark.skipif(RUNTIME != "detectron2", reason="beside Detectron2's")
def test_detectron2_draws_them():
    from detectron2.utils.visualizer import Visualizer

    (found,) = find(build_finder(*MASKS), sample([]))
    found = found[:3]
    drawn = Visualizer(np.zeros((64, 64, 3), np.uint8)).draw_instance_predictions(found)
    plain = Instances(
        (64, 64), **{k: v for k, v in found.get_fields().items() if k != "pred_masks"}
    )
    boxes = Visualizer(np.zeros((64, 64, 3), np.uint8)).draw_instance_predictions(plain)
    assert (drawn.get_image() != boxes.get_image()).any()


def test_the_branch_alone_is_trained_on_a_frozen_rest():
    model = build(*MASKS)
    freeze(model, ["backbone", "head"])
    losses = model([masked(ONE_BOX)] * 2)
    sum(losses.values()).backward()
    with_gradient = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None
    }
    assert with_gradient == {"tasks"}
    assert all(p.grad is not None for p in model.tasks.parameters())
    assert model.tasks.masks.project.conv.weight.grad.any()
