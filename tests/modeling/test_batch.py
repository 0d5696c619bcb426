"""A batch on its way to the device: where boxes end up, and what its ground truth is packed as."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.modeling import detector_postprocess
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.modeling.batch import (
    TRUTH_STEP,
    Geometry,
    pack_geometry,
    pack_truth,
    unpack_truth,
)
from yolor_d2.modeling.images import normalise
from yolor_d2.ops.padding import Padding

SIDE = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), min_size=1, max_size=3),
    place=st.sampled_from(["centre", "corner", "reference"]),
    seed=st.integers(0, 1000),
)
def test_boxes_are_those_of_detectron2_to_the_last_bit(sizes, place, seed):
    padding = Padding(place)
    inputs = [{"height": h, "width": w} for *_, h, w in sizes]
    placements = [padding.put((h, w), (96, 128), (hh, ww)) for h, w, hh, ww in sizes]
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(len(sizes), 20, 2, 2, generator=generator) * 180 - 30
    boxes = corners.sort(dim=2).values.flatten(2)
    table = pack_geometry(inputs, placements)
    geometry = Geometry(*table.split([4, 2, 2, 2, 2, 2], dim=1))
    found, has_area = geometry.to_images(boxes)
    for i, (placement, wanted) in enumerate(zip(placements, inputs)):
        expected = Boxes(placement.from_canvas(boxes[i]))
        expected.clip(placement.size)
        instances = Instances(placement.size, pred_boxes=expected, number=torch.arange(20))
        instances = detector_postprocess(instances, wanted["height"], wanted["width"])
        assert torch.equal(has_area[i].nonzero()[:, 0], instances.number)
        assert torch.equal(found[i][has_area[i]], instances.pred_boxes.tensor)
    assert geometry.window.tolist() == [list(map(float, x.window)) for x in placements]


def truth(boxes, labels):
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    return instances


def test_the_ground_truth_comes_back_shifted_and_filled_up():
    inputs = [
        truth([[0, 0, 10.25, 20]], [2]),
        truth([], []),
        truth([[1, 2, 3, 4]], [0]),
    ]
    placements = [Padding(margin=0.0).put((64, 64), (64, 96))] * 3  # 16 px on the left
    found = unpack_truth(pack_truth(inputs, placements), 3, 2)
    none = TRUTH_STEP  # a row behind all
    assert found.by_image.tolist() == [[0, none], [none, none], [1, none]]
    assert len(found.image) == 16 and found.valid.tolist() == [True] * 2 + [False] * 14
    assert found.image[:2].tolist() == [0, 2]
    assert found.boxes[:2].tolist() == [[21.125, 10, 10.25, 20], [18, 3, 2, 2]]
    assert found.labels[:2].tolist() == [2, 0]
    assert (found.boxes[2:] == 0).all() and (found.image[2:] == 0).all()


@pytest.mark.parametrize(("count", "rows"), [(0, 16), (16, 16), (17, 32)])
def test_rows_come_in_steps(count, rows):
    inputs = [truth([[0, 0, 1, 1]] * count, [0] * count)]
    placements = [Padding().put((64, 64), (64, 64))]
    assert len(pack_truth(inputs, placements)) == rows


@pytest.mark.parametrize("mean", [[0.0, 0.0, 0.0], [103.5, 116.3, 123.7]])
@pytest.mark.parametrize("std", [[255.0] * 3, [57.4, 57.1, 58.4]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_normalised_to_the_last_bit(mean, std, layout, dtype):
    pixels = torch.randint(256, (2, 3, 7, 5)).to(dtype)
    before = pixels.clone()
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    found = normalise(pixels, mean, std, layout, shifts=bool(mean.any()))
    assert torch.equal(found, (before.float() - mean) / std)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(pixels, before)
