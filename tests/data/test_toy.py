"""The generated data set: reproducible, true to its masks, varied, and safe to interrupt."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolor_d2 import toy

SMALL = {"num_train": 40, "num_val": 14}
TINY = {"num_train": 3, "num_val": 2, "image_size": (96, 128)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy.write_toy_dataset(tmp_path_factory.mktemp("toy"), **SMALL)


@pytest.fixture(scope="module")
def train(dataset):
    return json.loads(dataset.train_json.read_text())


def read_all(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def times(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def slow_box(mask: np.ndarray) -> list[float]:
    """Independent of ``tight_box``: looks at every pixel."""
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return [min(xs), min(ys), max(xs) + 1 - min(xs), max(ys) + 1 - min(ys)]


def test_polygons_are_the_masks(tmp_path):
    """Of rings too, whose hole is part of the polygon, and of what others divide."""
    ious, most_parts = [], 0
    for index in range(6):
        rng = np.random.default_rng([5, index])
        for thing in toy.make_scene(rng, (160, 200), num_objects=8)[1]:
            polygons = toy.trace(thing.mask)
            assert polygons and all(len(x) >= 6 and len(x) % 2 == 0 for x in polygons)
            encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, *thing.mask.shape))
            runs = coco_mask.frPyObjects(toy.encode_rle(thing.mask), *thing.mask.shape)
            ious.append(coco_mask.iou([encoded], [runs], [0]).item())
            most_parts = max(most_parts, len(polygons))
    assert min(ious) > 0.9 and np.mean(ious) > 0.97 and most_parts > 1
    assert toy.trace(np.zeros((4, 4), bool)) == []


@pytest.mark.heavy
def test_annotations_have_polygons(train):
    shapes = [x["segmentation"] for x in train["annotations"] if not x["iscrowd"]]
    assert len(shapes) == len(train["annotations"])
    for shape, entry in zip(shapes, train["annotations"]):
        x, y, width, height = entry["bbox"]
        points = np.concatenate([np.reshape(part, (-1, 2)) for part in shape])
        assert (points >= (x, y)).all() and (points <= (x + width, y + height)).all()


def test_equal_seeds_give_equal_bytes(tmp_path):
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        toy.write_toy_dataset(tmp_path / name, **TINY, seed=seed)
    first, again, other = (read_all(tmp_path / name) for name in "abc")
    assert first == again
    assert len(first) == 3 + 2 + 2  # pictures of both splits and two JSON files, nothing left over
    assert all(first[name] != other[name] for name in first)


def test_first_images_do_not_depend_on_the_number_of_images(tmp_path):
    toy.write_toy_dataset(tmp_path / "few", **TINY)
    toy.write_toy_dataset(tmp_path / "more", **{**TINY, "num_train": 5})
    few, more = read_all(tmp_path / "few"), read_all(tmp_path / "more")
    assert all(more[name] == content for name, content in few.items() if name.endswith(".jpg"))


def test_tight_box_by_hand():
    mask = np.zeros((6, 8), bool)
    assert toy.tight_box(mask) == [0, 0, 0, 0]
    mask[2, 3] = True
    assert toy.tight_box(mask) == [3, 2, 1, 1]  # one pixel is one wide: the end is exclusive
    mask[5, 7] = True
    assert toy.tight_box(mask) == [3, 2, 5, 4]  # up to the border: 3 + 5 == 8, 2 + 4 == 6


@pytest.mark.parametrize("corner", [False, True])
def test_encode_rle_agrees_with_pycocotools(corner):
    mask = np.random.default_rng(0).random((7, 5)) < 0.4
    mask[0, 0] = corner  # a first pixel that is set needs a run of no zeros before it
    encoded = toy.encode_rle(mask)
    assert (encoded["counts"][0] == 0) == corner
    values = np.arange(len(encoded["counts"])) % 2
    decoded = np.repeat(values, encoded["counts"]).reshape((7, 5), order="F")
    np.testing.assert_array_equal(decoded, mask)
    packed = coco_mask.frPyObjects(encoded, 7, 5)
    assert coco_mask.area(packed) == mask.sum()
    assert coco_mask.toBbox(packed).tolist() == toy.tight_box(mask)


def test_stamp_outside_the_image_covers_nothing():
    shape = toy.CATEGORIES[0].shape
    coverage, _ = toy.render_stamp(shape, 10.0, 1.0, 0.0, (-20.0, 5.0)).place((16, 16))
    assert coverage.shape == (16, 16)
    assert not coverage.any()


@pytest.mark.parametrize("category", toy.CATEGORIES, ids=lambda c: c.name)
@pytest.mark.parametrize("centre", [(40.3, 30.8), (8.0, 53.0)], ids=["inside", "cut"])
def test_box_is_tight_to_the_pixels_drawn(category, centre):
    """Measured on the picture: pixels that moved from the flat ground towards the paint."""
    rng = np.random.default_rng(1)
    scene = toy.Scene(np.full((60, 80, 3), 128.0, np.float32))
    stamp = toy.render_stamp(category.shape, 30.0, 0.8, 0.4, centre)
    assert toy.add_object(rng, scene, category, stamp)
    moved = np.abs(scene.canvas - 128.0).max(axis=2)
    x, y, w, h = (int(c) for c in toy.tight_box(scene.objects[0].mask))
    assert slow_box(scene.objects[0].mask) == [x, y, w, h]
    # Outside are only the soft edges, less than half covered, at most one pixel away.
    outside = moved.copy()
    outside[y : y + h, x : x + w] = 0
    assert outside.max() < 0.55 * moved.max()
    wide_x, wide_y, wide_w, wide_h = slow_box(moved > 0)
    assert x - 1 <= wide_x <= x and y - 1 <= wide_y <= y
    assert x + w <= wide_x + wide_w <= x + w + 1 and y + h <= wide_y + wide_h <= y + h + 1


def test_object_that_would_hide_another_is_refused():
    rng = np.random.default_rng(0)
    scene = toy.Scene(np.full((64, 64, 3), 128.0, np.float32))
    ring, box = toy.CATEGORIES[0], toy.CATEGORIES[3]
    assert toy.add_object(rng, scene, ring, toy.render_stamp(ring.shape, 20.0, 1, 0, (32, 32)))
    before = scene.canvas.copy()
    assert not toy.add_object(rng, scene, box, toy.render_stamp(box.shape, 40.0, 1, 0, (32, 32)))
    np.testing.assert_array_equal(scene.canvas, before)
    # The left half of the ring remains: visible enough, and its box shrinks to that half.
    assert toy.add_object(rng, scene, box, toy.render_stamp(box.shape, 20.0, 1, 0, (39, 32)))
    assert toy.tight_box(scene.objects[0].mask)[2] <= 20
    assert not (scene.objects[0].mask & scene.objects[1].mask).any()


def test_masks_of_a_scene_are_disjoint_and_visible():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        picture, objects = toy.make_scene(rng, (128, 160), num_objects=6)
        assert picture.dtype == np.uint8
        masks = np.array([o.mask for o in objects])
        assert masks.shape[1:] == picture.shape[:2]
        assert masks.sum(axis=0).max() <= 1
        assert all(o.mask.sum() >= 0.5 * o.full_area for o in objects)


def test_coco_loads_and_perfect_detections_score_one(dataset):
    """Also with the iscrowd regions of val, whose detections are ignored."""
    truth = COCO(str(dataset.val_json))
    crowds = [a for a in truth.anns.values() if a["iscrowd"]]
    assert len(crowds) == 2
    assert all(coco_mask.area(truth.annToRLE(a)) == a["area"] for a in crowds)
    found = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in truth.anns.values()
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_files_and_ids_follow_the_coco_format(dataset, train):
    assert set(train) == {"info", "licenses", "images", "annotations", "categories"}
    assert [a["id"] for a in train["annotations"]] == list(range(1, len(train["annotations"]) + 1))
    assert len({i["id"] for i in train["images"]}) == SMALL["num_train"]
    ids = [c["id"] for c in train["categories"]]
    assert ids == sorted(ids) and ids != list(range(ids[0], ids[0] + len(ids)))
    assert tuple(c["name"] for c in train["categories"]) == dataset.classes
    for image in train["images"]:
        picture = cv2.imread(str(dataset.train_images / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)


def test_boxes_lie_inside_their_images(train):
    sizes = {i["id"]: (i["width"], i["height"]) for i in train["images"]}
    at_border = 0
    for annotation in train["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert all(isinstance(c, float) for c in annotation["bbox"])
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert min(w, h) >= toy.MIN_VISIBLE_SIDE
        assert 0 < annotation["area"] <= w * h
        at_border += x == 0 or y == 0 or x + w == width or y + h == height
    assert at_border > 0


def test_content_is_varied(train):
    annotations, images = train["annotations"], train["images"]
    assert {a["category_id"] for a in annotations} == {c.id for c in toy.CATEGORIES}
    areas = np.array([a["area"] for a in annotations])
    # The limits of COCO's small, medium and large.
    assert (areas < 32**2).any() and (areas > 96**2).any()
    assert ((areas >= 32**2) & (areas <= 96**2)).any()
    empty = {i["id"] for i in images} - {a["image_id"] for a in annotations}
    assert len(empty) == 3  # images 6, 18 and 30 of 40
    assert len({(i["height"], i["width"]) for i in images}) > 10
    assert {i["height"] > i["width"] for i in images} == {True, False}


def test_some_boxes_overlap(train):
    overlaps = 0
    for image in train["images"]:
        boxes = [a["bbox"] for a in train["annotations"] if a["image_id"] == image["id"]]
        iou = coco_mask.iou(np.array(boxes), np.array(boxes), [0] * len(boxes)) if boxes else []
        overlaps += int((np.triu(iou, 1) > 0.1).sum()) if boxes else 0
    assert overlaps >= 5


def test_complete_data_set_is_kept(tmp_path):
    toy.write_toy_dataset(tmp_path, **TINY)
    before = times(tmp_path)
    toy.write_toy_dataset(tmp_path, **TINY)
    assert times(tmp_path) == before
    toy.write_toy_dataset(tmp_path, **TINY, force=True)
    after = times(tmp_path)
    assert after.keys() == before.keys() and all(after[p] > before[p] for p in before)


@pytest.mark.parametrize(
    "missing", ["instances_val.json", "instances_train.json", "val/100002.jpg"]
)
def test_incomplete_data_set_is_repaired(tmp_path, missing):
    toy.write_toy_dataset(tmp_path, **TINY)
    complete = read_all(tmp_path)
    (tmp_path / missing).unlink()
    (tmp_path / "train" / "000001.jpg").write_bytes(b"cut of")
    toy.write_toy_dataset(tmp_path, **TINY)
    assert read_all(tmp_path) == complete


def test_damaged_json_is_repaired_with_a_warning(tmp_path, caplog):
    toy.write_toy_dataset(tmp_path, **TINY)
    complete = read_all(tmp_path)
    (tmp_path / "instances_val.json").write_bytes(complete["instances_val.json"][:100])
    toy.write_toy_dataset(tmp_path, **TINY)
    assert read_all(tmp_path) == complete
    assert "not valid JSON" in caplog.text


def test_interrupted_writing_leaves_no_json(tmp_path, monkeypatch):
    toy.write_toy_dataset(tmp_path, **TINY)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("yolor_d2.toy.dataset.make_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.write_toy_dataset(tmp_path, **TINY, force=True)
    assert not list(tmp_path.glob("*.json"))


def test_other_data_set_is_not_overwritten_unasked(tmp_path):
    toy.write_toy_dataset(tmp_path, **TINY)
    before = read_all(tmp_path)
    with pytest.raises(FileExistsError, match="another data set"):
        toy.write_toy_dataset(tmp_path, **TINY, seed=1)
    assert read_all(tmp_path) == before
    toy.write_toy_dataset(tmp_path, **TINY, seed=1, force=True)
    assert read_all(tmp_path) != before


@pytest.mark.parametrize(
    "wrong", [{"num_train": 0}, {"num_val": 0}, {"seed": -1}, {"image_size": (32, 128)}]
)
def test_wrong_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="need num_train"):
        toy.write_toy_dataset(tmp_path, **(TINY | wrong))


def test_command_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        toy.main([str(tmp_path / "out"), "--train", "2", "--val", "1", "--seed", "5"])
    assert "2 train and 1 val images" in caplog.text
    info = json.loads((tmp_path / "out" / "instances_train.json").read_text())["info"]
    assert info["parameters"]["seed"] == 5


def test_the_number_of_objects_can_be_chosen(tmp_path):
    data = toy.write_toy_dataset(tmp_path, num_train=20, num_val=1, objects=(1, 2))
    content = json.loads(data.train_json.read_text())
    counts = [
        sum(a["image_id"] == image["id"] for a in content["annotations"])
        for image in content["images"]
    ]
    assert {1, 2} <= set(counts) <= {0, 1, 2}  # one image in twelve is empty
    assert content["info"]["parameters"]["objects"] == [1, 2]


@pytest.mark.parametrize("objects", [(0, 3), (3, 2), (1, 2, 3)])
def test_numbers_of_objects_out_of_range_are_named(tmp_path, objects):
    with pytest.raises(ValueError, match="objects of two numbers"):
        toy.write_toy_dataset(tmp_path, objects=objects)


# ---- keypoints


@pytest.fixture(scope="module")
def pointed(tmp_path_factory):
    root = tmp_path_factory.mktemp("pointed")
    return toy.write_toy_dataset(root, num_train=14, num_val=2, keypoints=True)


@pytest.mark.heavy
def test_keypoints_are_named_and_their_objects_upright(pointed, train):
    content = json.loads(pointed.train_json.read_text())
    assert content["info"]["parameters"]["keypoints"] is True
    named = {"keypoints": ["tip", "left_end", "right_end"], "skeleton": [[1, 2], [1, 3], [2, 3]]}
    for entry in content["categories"]:
        found = {key: entry.pop(key) for key in named if key in entry}
        assert found == (named if entry["name"] in ("triangle", "cross") else {})
    assert content["categories"] == train["categories"]
    assert content["images"] == train["images"][: len(content["images"])]
    for entry in content["annotations"]:
        points = np.reshape(entry["keypoints"], (3, 3))
        if (points[:, 2] > 0).all():
            tip, left, right = points[:, :2]
            assert tip[1] < (left + right)[1] / 2 and left[0] < right[0]


def test_keypoints_lie_at_the_ends_of_what_is_drawn(pointed):
    """Ends are on the border of the mask, or of what covers it, and left is left."""
    checked = hidden = 0
    content = json.loads(pointed.train_json.read_text())
    names = {x["id"]: x["name"] for x in content["categories"]}
    sizes = {x["id"]: (x["width"], x["height"]) for x in content["images"]}
    for entry in content["annotations"]:
        points = np.reshape(entry["keypoints"], (3, 3))
        assert entry["num_keypoints"] == (points[:, 2] > 0).sum()
        assert not points[points[:, 2] == 0].any()
        if names[entry["category_id"]] not in toy.KEYPOINTS:
            assert not points.any()
            continue
        known = points[points[:, 2] > 0, :2] + 0.5
        assert (known >= 0).all() and (known <= sizes[entry["image_id"]]).all()
        hidden += (points[:, 2] == 1).sum()
        outlines = [np.float32(x).reshape(-1, 1, 2) for x in entry["segmentation"]]
        for x, y, visibility in points:
            if visibility == 2:
                place = x + 0.5, y + 0.5
                assert min(abs(cv2.pointPolygonTest(o, place, True)) for o in outlines) < 5
                checked += 1
        if (points[:, 2] == 2).all():
            tip, left, right = points[:, :2]
            to_left, to_right = left - tip, right - tip
            assert to_left[0] * to_right[1] - to_left[1] * to_right[0] < 0
    assert checked > 60 and hidden > 3


def test_covered_keypoints_are_hidden():
    rng = np.random.default_rng(0)
    scene = toy.Scene(np.full((100, 100, 3), 128.0, np.float32))
    cross, box = toy.CATEGORIES[2], toy.CATEGORIES[3]
    pose = (60.0, 1.0, 0.0)
    assert toy.add_object(
        rng, scene, cross, toy.render_stamp(cross.shape, *pose, (30, 50)), None, pose
    )
    thing = scene.objects[0]
    expected = [[30, 50 - 0.96 * 30, 2], [30 - 0.96 * 30, 50, 2], [30 + 0.96 * 30, 50, 2]]
    np.testing.assert_allclose(thing.keypoints, expected)
    small = (20.0, 1.0, 0.0)
    stamp = toy.render_stamp(box.shape, *small, (58, 50))
    assert toy.add_object(rng, scene, box, stamp, None, small)
    assert thing.keypoints[:, 2].tolist() == [2, 2, 1] and scene.objects[1].keypoints is None
    # Outside the picture it has none.
    outside = toy.SceneObject(cross, np.ones((100, 100), bool), 1)
    outside.set_keypoints(pose, (10, 50))
    assert outside.keypoints[:, 2].tolist() == [2, 0, 2] and not outside.keypoints[1].any()


def test_command_line_writes_keypoints(tmp_path):
    arguments = [str(tmp_path), "--train", "2", "--val", "1", "--keypoints"]
    toy.main(arguments)
    content = json.loads((tmp_path / "instances_val.json").read_text())
    assert all(len(x["keypoints"]) == 9 for x in content["annotations"])
