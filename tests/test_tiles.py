"""Tiles of large images: masks and keypoints in the whole image, and pieces that become one."""

import resource

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.ops.masks import BoxMasks, MaskPiece
from yolor_d2.tiles import (
    cut_by,
    join_pieces,
    overlaps_inside,
    shared_part,
    take_from_tile,
    tile_windows,
)

CELL = 4  # pixels of a cell of the maps


def instances(size, boxes, masks=None, scores=None, labels=None, keypoints=None) -> Instances:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    count = len(boxes)
    found = Instances(
        size,
        pred_boxes=Boxes(boxes),
        scores=torch.full((count,), 0.5) if scores is None else torch.as_tensor(scores),
        pred_classes=torch.zeros(count).long() if labels is None else torch.as_tensor(labels),
    )
    if masks is not None:
        found.pred_masks = BoxMasks(masks, size)
    if keypoints is not None:
        found.pred_keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    return found


def piece_of(scene: np.ndarray, window) -> Instances:
    """What a tile shows of the one object of a scene: box, mask, and the corners of the box as
    keypoints, which are sure where the tile sees them."""
    left, top, right, bottom = window
    part = scene[top:bottom, left:right]
    size = part.shape
    if not part.any():
        return instances(size, [], masks=[], keypoints=torch.zeros(0, 2, 3))
    y, x = part.nonzero()
    box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
    logits = torch.from_numpy(part.astype(np.float32))[::CELL, ::CELL] - 0.5
    piece = MaskPiece(logits, (0.0, 0.0, float(size[1]), float(size[0])), box)
    whole_y, whole_x = scene.nonzero()
    corners = [(whole_x.min(), whole_y.min()), (whole_x.max() + 1, whole_y.max() + 1)]
    points = []
    for x, y in corners:
        sure = left <= x <= right and top <= y <= bottom
        error = 0 if sure else 9
        points.append((x - left + error, y - top + error, 0.9 if sure else 0.1))
    return instances(size, [box], masks=[[piece]], keypoints=[points])


@pytest.mark.parametrize("seed", range(6))
def test_pieces_of_a_large_object_become_the_object(seed):
    """An ellipse larger than the overlap of tiles, anywhere: one object with its box, its mask and
    the surest of its keypoints."""
    rng = np.random.default_rng(seed)
    height, width = 320, 400
    y, x = np.mgrid[:height, :width]
    cx, cy = rng.uniform((110, 110), (290, 210))
    a, b = rng.uniform(50, 100, 2)
    scene = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    scene = scene[::CELL, ::CELL].repeat(CELL, 0).repeat(CELL, 1)
    windows = tile_windows(height, width, tile=160, overlap=40)
    found = [
        take_from_tile(piece_of(scene, window), window, (height, width), 40) for window in windows
    ]
    assert sum(map(len, found)) > 1
    joined = join_pieces(found, windows)
    assert len(joined) == 1
    ys, xs = scene.nonzero()
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert joined.pred_boxes.tensor[0].tolist() == box
    mask = joined.pred_masks[0].numpy()
    assert (mask & scene).sum() / (mask | scene).sum() > 0.97
    # Points of the surest piece where any of the pieces that were joined has seen them.
    points = joined.pred_keypoints[0]
    best = torch.cat([x.pred_keypoints for x in found])[:, :, 2].amax(dim=0)
    assert torch.equal(points[:, 2], best)
    for place, corner in zip(points, (box[:2], box[2:])):
        if place[2] > 0.5:
            assert place[:2].tolist() == corner


def test_objects_that_hardly_overlap_stay_apart():
    """Two bars side by side on a seam, of which each tile sees one; a bar of another class over
    the first; and one that no border cuts."""
    size, windows = (100, 180), [(0, 0, 100, 100), (80, 0, 180, 100)]

    def bar(x1, y1, x2, y2):
        box = (float(x1), float(y1), float(x2), float(y2))
        return [MaskPiece(torch.ones(2, 2), box, box)]

    boxes = [[40, 10, 100, 20], [10, 50, 60, 60]]
    first = instances(size, boxes, [bar(*x) for x in boxes], scores=[0.8, 0.7])
    boxes = [[80, 17, 150, 27], [80, 10, 150, 20], [80, 11, 140, 21]]
    second = instances(
        size, boxes, [bar(*x) for x in boxes], scores=[0.6, 0.9, 0.5], labels=[0, 0, 1]
    )
    joined = join_pieces([first, second], windows)
    assert joined.pred_boxes.tensor.tolist() == [
        *([40, 10, 150, 20], [10, 50, 60, 60], [80, 17, 150, 27], [80, 11, 140, 21])
    ]
    assert joined.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
    assert [int(x.sum()) for x in joined.pred_masks] == [1100, 500, 700, 600]
    # Without masks nothing says that pieces are one.
    for found in (first, second):
        found.remove("pred_masks")
    assert len(join_pieces([first, second], windows)) == 5


def test_moved_fields_and_others():
    keypoints = [[[5.0, 6.0, 0.5]]]
    mask = [[MaskPiece(torch.ones(1, 1), (2.0, 3.0, 8.0, 9.0), (2.0, 3.0, 8.0, 9.0))]]
    found = instances((100, 100), [[2, 3, 8, 9]], mask, keypoints=keypoints)
    found.pred_embeddings = torch.ones(1, 4)
    moved = take_from_tile(found, (80, 60, 180, 160), (200, 300), 20)
    assert moved.image_size == (200, 300)
    assert moved.pred_boxes.tensor.tolist() == [[82, 63, 88, 69]]
    assert moved.pred_keypoints.tolist() == [[[85, 66, 0.5]]]
    assert moved.pred_masks[0][63:69, 82:88].all() and int(moved.pred_masks[0].sum()) == 36
    assert torch.equal(moved.pred_embeddings, found.pred_embeddings)


def test_windows_and_boxes_by_hand():
    assert shared_part((0, 0, 10, 10), (8, 0, 18, 10)) == (8, 0, 10, 10)
    assert shared_part((0, 0, 10, 10), (10, 0, 20, 10)) is None
    boxes = torch.tensor([[0.0, 0, 9, 4], [20, 0, 24, 4]])
    other = torch.tensor([[8.0, 2, 30, 4]])
    # Inside x from 8 to 10: 1 x 4 and 2 x 2 pixels, of which 1 x 2 are shared; nothing of another.
    overlaps = overlaps_inside(boxes, other, (8, 0, 10, 10))
    assert overlaps[:, 0].tolist() == pytest.approx([2 / 6, 0])
    cut = cut_by(torch.tensor([[0.5, 0, 99.5, 4]]), (0, 0, 100, 100), (100, 250))
    assert cut.tolist() == [[False, False, True, False]]


def test_hundreds_of_masks_of_a_large_image_need_little_memory():
    """300 objects of 4000 x 3000 pixels, which would be 3.6 GB all at once."""
    size = (3000, 4000)
    rng = np.random.default_rng(0)
    windows = tile_windows(*size, tile=1280, overlap=128)
    share = -(-300 // len(windows))
    found = []
    for window in windows:
        corners = rng.uniform(0, 900, (share, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(50, 380, (share, 2))], axis=1)
        masks = [[MaskPiece(torch.randn(40, 40), tuple(x), tuple(x))] for x in boxes.tolist()]
        found.append(take_from_tile(instances((1280, 1280), boxes, masks), window, size, 128))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    joined = join_pieces(found, windows)
    joined = joined[joined.scores > 0.1]
    assert len(joined) > 250
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert more < 100, f"{more} MiB"
