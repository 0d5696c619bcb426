"""Masks and keypoints in pictures and files."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.api import Result as ApiResult
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.ops.masks import BoxMasks, MaskPiece
from yolor_d2.prediction.coco_files import CocoResults
from yolor_d2.prediction.folders import YoloLabels
from yolor_d2.prediction.result import Result
from yolor_d2.prediction.sources import Source
from yolor_d2.prediction.text_files import CsvFile, JsonFile
from yolor_d2.visualize.batches import draw_batches
from yolor_d2.visualize.boxes import PALETTE, draw_boxes
from yolor_d2.visualize.shapes import (
    MaskCrop,
    Skeleton,
    coco_points,
    crop_of_polygons,
    crops,
    draw_mask,
    draw_points,
    one_outline,
    outlines,
    polygon_text,
)

SIZE = (40, 60)


def rectangle(x1, y1, x2, y2) -> MaskPiece:
    """All of a box is inside."""
    return MaskPiece(torch.ones(2, 2), (x1, y1, x2, y2), (x1, y1, x2, y2))


def disc(x, y, radius) -> MaskPiece:
    """A map of 8 x 8 cells that is above 0 nearly inside a circle."""
    cells = (torch.arange(8) + 0.5) / 4 - 1
    logits = 1 - (cells[:, None] ** 2 + cells**2)
    box = (x - radius, y - radius, x + radius, y + radius)
    return MaskPiece(logits, box, box)


MASKS = BoxMasks(
    [[rectangle(10.0, 5.0, 20.0, 15.0)], [disc(40.0, 20.0, 8.0)], [], [disc(58.0, 2.0, 6.0)]], SIZE
)
SKELETON = Skeleton.from_names(("tip", "left"), [("tip", "left"), ("tip", "unknown")])


def pasted(crop: MaskCrop) -> np.ndarray:
    whole = np.zeros(SIZE, dtype=bool)
    height, width = crop.pixels.shape
    whole[crop.top : crop.top + height, crop.left : crop.left + width] = crop.pixels
    return whole


@pytest.mark.parametrize("index", range(4))
def test_a_crop_and_its_outline_are_the_mask(index):
    mask, crop = MASKS[index].numpy(), crops(MASKS)(index)
    assert (pasted(crop) == mask).all()
    assert (pasted(crop_of_polygons(outlines(crop), SIZE)) == mask).all()
    assert mask.any() == (index != 2)


def test_one_outline_joins_parts_and_holes():
    pixels = np.zeros((9, 20), dtype=bool)
    pixels[1:8, 1:8] = True
    pixels[3:6, 3:6] = False
    pixels[2:5, 12:18] = True
    polygon = one_outline(MaskCrop(4, 2, pixels))
    assert polygon is not None
    x, y = polygon.astype(np.float64).T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    # Cuts have no width; each is gone both ways.
    assert area == pytest.approx(pixels.sum(), abs=1)
    assert {tuple(p) for p in polygon.tolist()} >= {(5, 3), (12, 10), (16, 4), (22, 7)}
    assert one_outline(MaskCrop(0, 0, np.zeros((3, 3), dtype=bool))) is None


def test_a_mask_is_drawn_inside_it_and_nowhere_else():
    canvas = np.full((*SIZE, 3), 100, np.uint8)
    draw_mask(canvas, crops(MASKS)(0), (200, 0, 100), 1)
    changed = (canvas != 100).any(axis=2)
    assert (changed[4:16, 9:21].sum(), changed.sum()) == (100, 100)
    assert canvas[10, 15].tolist() == [140, 60, 100]  # 40 % of the colour
    assert canvas[5, 12].tolist() == [200, 0, 100]  # the outline
    before = canvas.copy()
    draw_mask(canvas, crops(MASKS)(2), (200, 0, 100), 1)
    assert (canvas == before).all()


def test_points_that_are_there_are_drawn_and_lines_between_them():
    black = np.zeros((*SIZE, 3), np.uint8)
    red = (255, 0, 0)
    points = np.array([[10.5, 20.5, 0.9], [50.5, 20.5, 0.8]])
    draw_points(black, points, [(0, 1)], red, 1)
    assert black[20, 10].tolist() == black[20, 50].tolist() == [255, 0, 0]
    assert black[20, 30, 0] > 200
    black[:] = 0
    points[1, 2] = 0.2
    draw_points(black, points, [(0, 1)], red, 1)
    assert black[20, 10].any() and not black[20, 50].any() and not black[20, 30].any()
    draw_points(black, np.array([[1e9, -1e9, 1.0], [5, 5, 1]]), [(0, 1)], red, 1)  # far outside
    with pytest.raises(ValueError, match="finite"):
        draw_points(black, np.array([[np.nan, 0, 1.0]]), [], red, 1)


def test_drawings_without_masks_are_what_they_were_and_with_them_more():
    image = np.full((*SIZE, 3), 60, np.uint8)
    boxes = np.array([[10.0, 5, 20, 15], [32, 12, 48, 28]])
    plain = draw_boxes(image, boxes, [0, 1], ["a", "b"], labels=False)
    points = np.array([[[12.0, 8, 1], [18, 12, 1]], [[40, 20, 0.1], [42, 20, 0.9]]])
    full = draw_boxes(
        image,
        boxes,
        [0, 1],
        ["a", "b"],
        labels=False,
        masks=crops(MASKS),
        keypoints=points,
        skeleton=SKELETON,
    )
    assert (plain != full).any(axis=2)[14:26, 34:46].sum() > 80
    assert full[8, 12].tolist() == list(PALETTE[0])


def test_batches_are_drawn_with_their_masks_and_points(tmp_path):
    from yolor_d2.d2 import structures
    from yolor_d2.files.images import read_image

    truth = Instances(SIZE, gt_boxes=Boxes(torch.tensor([[10.0, 5, 30, 25]])))
    truth.gt_classes = torch.tensor([0])
    plain = {"image": torch.zeros(3, *SIZE, dtype=torch.uint8), "instances": truth}
    more = Instances(SIZE, **truth.get_fields())
    more.gt_masks = structures.PolygonMasks([[np.array([10.0, 5, 30, 5, 10, 25])]])
    more.gt_keypoints = structures.Keypoints(torch.tensor([[[20.0, 20, 2], [0, 0, 0]]]))
    drawn = []
    for number, instances in enumerate((truth, more)):
        batch = [{**plain, "instances": instances}]
        (path,) = draw_batches(
            [batch],
            tmp_path,
            count=1,
            first=number,
            class_names=["a"],
            channel_order="RGB",
            skeleton=SKELETON,
        )
        drawn.append(read_image(path))
    differs = (drawn[0] != drawn[1]).any(axis=2)
    assert differs[10:12, 12:14].all() and differs[20, 20]
    assert not differs[24, 28] and not differs[2, 2]


# ---- files


def result(masks=MASKS, keypoints=True) -> Result:
    boxes = np.array([[10.0, 5, 20, 15], [32, 12, 48, 28], [1, 1, 5, 5], [52, 0, 60, 8]])
    points = np.tile(np.array([[12.25, 8.5, 0.9], [18, 12, 0.2]], np.float32), (4, 1, 1))
    return Result(
        source=Source("a.png", "image", PurePosixPath("a")),
        image_id=7,
        frame=0,
        seconds=0.0,
        size=SIZE,
        boxes=boxes,
        scores=[0.9, 0.8, 0.7, 0.6],
        labels=[0, 1, 0, 1],
        identities=[],
        names=["ring", "cross"],
        read=lambda: np.zeros((*SIZE, 3), np.uint8),
        masks=masks,
        keypoints=points if keypoints else None,
        skeleton=SKELETON if keypoints else None,
    )


def write(output, found) -> str:
    output.add(found)
    output.close()
    return output.path.read_text()


def test_json_csv_and_coco_results(tmp_path):
    mask_tools = pytest.importorskip("faster_coco_eval.core.mask")
    found = result()
    (record,) = json.loads(write(JsonFile(tmp_path / "a.json"), found))
    first, _, third, _ = record["detections"]
    assert first["keypoints"] == [[12.25, 8.5, 0.9], [18.0, 12.0, 0.2]]
    assert mask_tools.decode(first["segmentation"]).sum() == 100
    assert mask_tools.decode(third["segmentation"]).sum() == 0
    coco = json.loads(write(CocoResults(tmp_path / "c.json", [3, 5]), found))
    assert coco[1]["category_id"] == 5 and "class" not in coco[1]
    # COCO numbers pixels: the centre of pixel 0 is at 0.5.
    assert coco[0]["keypoints"] == [11.75, 8.0, 0.9, 17.5, 11.5, 0.2]
    assert (mask_tools.decode(coco[1]["segmentation"]) == MASKS[1].numpy()).all()
    text = write(CsvFile(tmp_path / "a.csv", masks=True, skeleton=SKELETON), found)
    head, one, _, three, _ = text.splitlines()
    assert head.split(",")[9:] == [
        *("polygons", "tip_x", "tip_y", "tip_score", "left_x", "left_y", "left_score")
    ]
    assert one.split(",")[9:] == [
        "10 5 10 15 20 15 20 5",
        *("12.25", "8.5", "0.9", "18.0", "12.0", "0.2"),
    ]
    assert three.split(",")[9] == ""


def test_files_of_boxes_alone_are_what_they_were(tmp_path):
    found = result(None, keypoints=False)
    text = write(CsvFile(tmp_path / "a.csv"), found)
    assert text.splitlines()[:2] == [
        "file_name,frame,seconds,class,score,x,y,width,height",
        "a.png,0,0.0,ring,0.9,10.0,5.0,10.0,10.0",
    ]
    assert set(found.detections[0]) == {"bbox", "score", "class"}


def test_yolo_labels_are_outlines_or_poses(tmp_path):
    YoloLabels(tmp_path).add(result())
    first, _, third, _ = (tmp_path / "a.txt").read_text().splitlines()
    corners = np.array(first.split()[1:], float).reshape(-1, 2) * (60, 40)
    assert sorted(map(tuple, corners.round(3).tolist())) == [(10, 5), (10, 15), (20, 5), (20, 15)]
    assert len(third.split()) == 9  # without a pixel: its box
    YoloLabels(tmp_path).add(result(None))
    first = (tmp_path / "a.txt").read_text().splitlines()[0].split()
    assert first[:5] == ["0", "0.250000", "0.250000", "0.166667", "0.250000"]
    assert first[5:] == ["0.204167", "0.212500", "2", "0.000000", "0.000000", "0"]


def test_results_of_load_have_masks_and_points():
    found = result()
    api = ApiResult(
        boxes=found.boxes.astype(np.float32),
        scores=np.array(found.scores, np.float32),
        class_ids=np.array(found.labels),
        class_names=("ring", "cross"),
        size=SIZE,
        masks=MASKS,
        keypoints=found.keypoints,
        skeleton=SKELETON,
        _pixels=np.zeros((*SIZE, 3), np.uint8),
    )
    assert api.plot(labels=False)[10, 15].any()
    (first, *_) = api.to_coco(4)
    assert first["keypoints"] == coco_points(api.to_records()[0]["keypoints"])
    assert first["segmentation"]["size"] == [40, 60]
    assert json.loads(api.to_json())["detections"][0]["segmentation"] == first["segmentation"]


def test_polygon_text_has_all_parts():
    pixels = np.zeros((3, 9), dtype=bool)
    pixels[:, :2] = pixels[:, 5:] = True
    text = polygon_text(MaskCrop(1, 0, pixels))
    assert sorted(len(x.split()) for x in text.split(";")) == [8, 8]
