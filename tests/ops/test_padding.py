"""Canvas, offsets and the way back, against the values of the reference and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops.padding import Padding

PROPERTY = settings(max_examples=200, deadline=None, database=None, derandomize=True)
CENTRE, CORNER, REFERENCE = Padding(), Padding("corner"), Padding("reference")
TIGHT = Padding(margin=0.0)


def batch_canvas(padding, sizes, stride, originals=None):
    canvases = [
        padding.canvas_size(size, stride, original)
        for size, original in zip(sizes, originals or [None] * len(sizes))
    ]
    return max(h for h, _ in canvases), max(w for _, w in canvases)


@pytest.mark.parametrize("padding", [CENTRE, REFERENCE])
@pytest.mark.parametrize(
    ("ratios", "size", "stride", "canvas"),
    [
        # The authors' test loader, as recorded: by the greatest ratio of a batch of wide images.
        ([0.5, 0.6], 1280, 64, (832, 1344)),
        ([0.75], 1280, 64, (1024, 1344)),
        ([0.75, 1.5], 1280, 64, (1344, 1344)),
        ([0.75, 1.0], 640, 32, (672, 672)),
        ([0.75], 640, 64, (512, 704)),
        # By hand: high images by the least ratio; ceil(640 / 1.25 / 32 + 0.5) == 17.
        ([1.25, 2.0], 640, 32, (672, 544)),
        ([1.0], 640, 32, (672, 672)),
    ],
)
def test_canvases_of_the_reference(padding, ratios, size, stride, canvas):
    originals = [(round(1000 * r), 1000) for r in ratios]
    sizes = [tuple(round(side * size / max(x)) for side in x) for x in originals]
    assert batch_canvas(padding, sizes, stride, originals) == canvas


def test_tight_canvases_and_offsets_of_the_reference():
    """Its detection command: no margin. Halves: round(10.5 - 0.1) == 10 above, 11 below."""
    for size, canvas, offset in [
        ((480, 640), (480, 640), (0, 0)),
        ((427, 640), (448, 640), (10, 0)),
    ]:
        assert TIGHT.canvas_size(size, 32) == canvas
        assert TIGHT.put(size, canvas).offset == offset
    for size, canvas, offset in [
        ((852, 1280), (896, 1280), (22, 0)),
        ((720, 1280), (768, 1280), (24, 0)),
    ]:
        assert TIGHT.canvas_size(size, 64) == canvas
        assert TIGHT.put(size, canvas).offset == offset


def test_one_pixel_and_odd_sizes():
    assert CENTRE.canvas_size((1, 1), 32) == (32, 32)
    assert CENTRE.put((1, 1), (32, 32)).offset == (15, 15)
    # 16 pixels and half a stride are just one stride, 17 need two.
    assert CENTRE.canvas_size((16, 17), 32) == (32, 64)
    assert CENTRE.put((33, 35), (64, 64)).window == (14, 15, 49, 48)
    assert CORNER.canvas_size((33, 64), 32) == (64, 64)
    assert CORNER.put((33, 35), (64, 64)).window == (0, 0, 35, 33)


def test_the_reference_goes_by_the_unrounded_sides():
    """Of 1000 x 725 pixels at 640, 464 are left of 464.0; of 1000 x 726, 464 of 464.64: with 16
    pixels more that is 15 strides in the first case and needs 16 in the second."""
    assert REFERENCE.canvas_size((464, 640), 32, (725, 1000)) == (480, 672)
    assert REFERENCE.canvas_size((464, 640), 32, (726, 1000)) == (512, 672)
    assert CENTRE.canvas_size((464, 640), 32, (726, 1000)) == (480, 672)


def test_the_canvas_holds_the_image_whatever_the_file_was():
    """A square that was cut out of a wide photograph."""
    assert REFERENCE.canvas_size((64, 64), 32, (100, 400)) == (96, 96)


def test_training_has_no_margin():
    assert CENTRE.for_training() == REFERENCE.for_training() == TIGHT
    assert CORNER.for_training().canvas_size((33, 64), 32) == (64, 64)
    assert CORNER.for_training().put((33, 35), (64, 64)).offset == (0, 0)


def test_the_way_back_of_the_reference_by_hand():
    """An image of 1000 x 501 at 640: r = 0.64, 320.64 rows become 320. Canvas 352 x 672, border 32
    and 32, offset 16. A box is mapped by (v - 16) / (320 / 501) on both axes, while what follows
    multiplies x by 1000 / 640."""
    place = REFERENCE.put((320, 640), (352, 672), (501, 1000))
    assert place.offset == (16, 16) and place.origin == (16, 16)
    boxes = torch.tensor([[16.0, 16.0, 656.0, 336.0]])
    back = place.from_canvas(boxes) * torch.tensor([1000 / 640, 501 / 320] * 2)
    torch.testing.assert_close(back, torch.tensor([[0.0, 0.0, 640 * 501 / 320, 501.0]]))
    # An odd border: the pixels lie at 10, boxes are taken from 10.5.
    place = REFERENCE.put((427, 640), (448, 640), (427, 640))
    assert place.offset == (10, 0) and place.origin == (10.5, 0)


@PROPERTY
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([8, 32, 64]),
    st.sampled_from([CENTRE, CORNER, REFERENCE, TIGHT]),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_images_lie_whole_on_the_least_canvas(height, width, stride, padding, rows, columns):
    canvas = padding.canvas_size((height, width), stride)
    for side, whole in zip((height, width), canvas):
        margin = padding.margin if padding.place != "corner" else 0
        assert whole == math.ceil(side / stride + margin) * stride
    # The canvas of a batch may be larger.
    larger = canvas[0] + rows * stride, canvas[1] + columns * stride
    place = padding.put((height, width), larger)
    x1, y1, x2, y2 = place.window
    assert (x2 - x1, y2 - y1) == (width, height)
    if padding.place == "corner":
        assert (x1, y1) == (0, 0)
        return
    # Centred: the same on both sides, or a pixel more behind.
    assert larger[1] - x2 - x1 in (0, 1) and larger[0] - y2 - y1 in (0, 1)
    box = torch.tensor([[x1, y1, x2, y2]]).float()
    image = torch.tensor([[0.0, 0.0, width, height]])
    assert torch.equal(place.from_canvas(box), image)
    assert torch.equal(place.to_canvas(image), box)
