"""Keypoints: names and pairs, what is read of files, and that they follow what they mark.

Pictures have a channel for the object and one for each keypoint, with a spot around it.
"""

import dataclasses
import json
import logging

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import tile_of

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BoxMode
from yolor_d2.data import training_data
from yolor_d2.data.augmentation.image import Sample, flip_horizontal, flip_vertical, mixup
from yolor_d2.data.augmentation.paste_in import CutObject, Cutouts, paste_in
from yolor_d2.data.augmentation.warp import Warp, random_warp, render, translation
from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.data.loader import build_training_dataset
from yolor_d2.data.training_data import check_layout
from yolor_d2.datasets import catalog, open_files, prepared_copies
from yolor_d2.datasets import keypoints as keypoint_files
from yolor_d2.datasets.fingerprint import describe_changes, take_fingerprint
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.datasets.keypoints import layout_of_categories, read_keypoints
from yolor_d2.datasets.open_files import read_annotations
from yolor_d2.datasets.source import AnnotationFileError
from yolor_d2.structures.keypoints import (
    cut_keypoints,
    flip_order,
    join_keypoints,
    map_keypoints,
    pairs_by_names,
    read_points,
)
from yolor_d2.structures.polygons import PolygonList, Polygons

PROPERTY = settings(max_examples=25, deadline=None, database=None, derandomize=True)
SEEDS = st.integers(0, 2**31)
NAMES = ["tip", "left_end", "right_end"]
ORDER = flip_order(NAMES, pairs_by_names(NAMES))
SIZE = 240
SPOT = 7.0  # radius in pixels
MARGIN = 2.5 * SPOT  # from the border of an image, where spots are whole


# ---- names


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["nose", "left_eye", "right_eye"], [("left_eye", "right_eye")]),
        (["eye_right", "eye_left"], [("eye_right", "eye_left")]),
        (["l_hip", "r_hip", "L-knee", "R-knee"], [("l_hip", "r_hip"), ("L-knee", "R-knee")]),
        (["leftEar", "rightEar", "earLeft"], [("leftEar", "rightEar")]),
        (["Left ankle", "Right ankle"], [("Left ankle", "Right ankle")]),
        (["left_eye", "nose", "tail", "leftover", "rightover"], []),
        (["wheel_l", "wheel_r", "lr", "rl"], [("wheel_l", "wheel_r")]),
        (["front_left_paw", "front_right_paw"], [("front_left_paw", "front_right_paw")]),
        ([], []),
    ],
)
def test_pairs_by_names(names, pairs):
    assert pairs_by_names(names) == pairs


def test_the_order_behind_a_mirror():
    assert ORDER.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=r"keypoint_flip_map names \['ear'\]"):
        flip_order(NAMES, [("tip", "ear")])
    with pytest.raises(ValueError, match="no name twice"):
        flip_order(NAMES, [("tip", "left_end"), ("tip", "right_end")])


def test_layout_of_categories():
    line = {"keypoints": NAMES, "skeleton": [[1, 2], [3, 1]]}
    layout = layout_of_categories([None, line, {"keypoints": NAMES, "skeleton": None}])
    assert layout.names == tuple(NAMES)
    assert layout.connections == (("tip", "left_end"), ("right_end", "tip"))
    assert [rule[:2] for rule in layout.rules] == list(layout.connections)
    colours = [rule[2] for rule in layout.rules]
    assert all(0 <= x <= 255 for colour in colours for x in colour) and len({*colours}) == 2
    assert layout.pairs == (("left_end", "right_end"),)
    assert layout_of_categories([{**line, "flip_pairs": []}]).pairs == ()
    told = layout_of_categories([{**line, "flip_pairs": [["tip", "left_end"]]}])
    assert told.pairs == (("tip", "left_end"),)
    assert layout_of_categories([None, {"keypoints": []}]) is None
    for wrong, message in [
        ([line, {"keypoints": ["a"]}], "different keypoints"),
        ([{"keypoints": "tip"}], "expected a list of names"),
        ([{"keypoints": ["a", "a"]}], "twice"),
        ([{"keypoints": ["a"], "skeleton": [[1, 2]]}], "points, 1 to 1"),
        ([{"keypoints": ["a"], "flip_pairs": [["a", "b"]]}], "two names of 'keypoints'"),
    ]:
        with pytest.raises(ValueError, match=message):
            layout_of_categories(wrong)


# ---- numbers


def test_points_by_hand():
    found = read_points([1, 2, 2, 3, 4, 0, 5, 6, 1], 3)
    assert found.tolist() == [[1, 2, 2], [0, 0, 0], [5, 6, 1]] and found.dtype == np.float32
    for wrong, message in [
        ([1, 2], "2 numbers in 'keypoints', expected three for each point"),
        (["a", 1, 2], "no list of numbers"),
        ([[1], [2, 3]], "no list of numbers"),
        ([1, 2, 3], "visibility 3"),
        ([1, 2, 0.5], "visibility 0.5"),
        ([np.nan, 2, 1], "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_points(wrong, None)
    with pytest.raises(ValueError, match=r"6 numbers.*expected 9"):
        read_points([1, 2, 2, 1, 2, 2], 3)


def test_moving_by_hand():
    points = np.array([[[1, 2, 2], [0, 0, 0], [5, 6, 1]]], np.float32)
    moved = map_keypoints(points, lambda x: x + (10, 20))
    assert moved.tolist() == [[[11, 22, 2], [0, 0, 0], [15, 26, 1]]]
    assert points[0, 0].tolist() == [1, 2, 2]  # it stays as it was
    assert cut_keypoints(moved, 12, 30).tolist() == [[[11, 22, 2], [0, 0, 0], [0, 0, 0]]]
    assert cut_keypoints(moved, 15, 26).tolist() == moved.tolist()  # the border is inside
    two = np.concatenate([moved, moved])
    sides = np.array([12, 100]), np.array([30, 100])
    assert cut_keypoints(two, *sides)[:, 2, 2].tolist() == [0, 1]
    assert not np.signbit(cut_keypoints(moved - (30, 30, 0), 9, 9)).any()  # no -0
    joined = join_keypoints([(None, 2), (moved, 1), (np.zeros((1, 0, 3), np.float32), 1)])
    assert joined.shape == (4, 3, 3) and joined[2].tolist() == moved[0].tolist()
    assert join_keypoints([(None, 2), (None, 0)]) is None


# ---- files


def entry(number, image=1, **more) -> dict:
    box = {"bbox": [1, 1, 8, 4], "area": 9, "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": 1, **box, **more}


CATEGORIES = [
    {"id": 1, "name": "a", "keypoints": NAMES, "skeleton": [[1, 2]]},
    {"id": 2, "name": "b"},
]
ENTRIES = [
    entry(9, keypoints=[3, 4, 2, 7, 7, 0, 0, 0, 1]),
    entry(3, keypoints=[0] * 9, num_keypoints=0),
    entry(5, category_id=2),
    entry(7, keypoints=[9, 7, 2, 10, 3, 2, -1, 3, 2]),  # the last two outside
    entry(2, 99, keypoints=[1, 1, 2] * 3),  # of no image
    entry(4, iscrowd=1, keypoints=[1]),
    entry(6, keypoints=[], bbox=[20, 20, 3, 3]),  # outside its image
]


def write(folder, entries=ENTRIES, categories=CATEGORIES):
    path = folder / "file.json"
    images = [{"id": 1, "file_name": "1.png", "height": 8, "width": 10}]
    content = {"images": images, "annotations": entries, "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def registered(tmp_path):
    """A name, under which `write` leaves a file in `tmp_path`."""
    write(tmp_path)
    catalog.register_coco_file("keypoints/file", str(tmp_path / "file.json"), "")
    yield "keypoints/file"
    catalog.DatasetCatalog.remove("keypoints/file")
    catalog.MetadataCatalog.remove("keypoints/file")


def test_keypoints_of_a_file(tmp_path):
    path = write(tmp_path)
    found = read_annotations(path)
    points = read_keypoints(path, found)
    assert points.shape == (6, 3, 3) and found.ids.tolist() == [9, 3, 5, 7, 4, 6]
    assert points[0].tolist() == [[3.5, 4.5, 2], [0, 0, 0], [0.5, 0.5, 1]]
    assert points[3].tolist() == [[9.5, 7.5, 2], [10.5, 3.5, 2], [-0.5, 3.5, 2]]
    assert not points[[1, 2, 4, 5]].any()
    truth = GroundTruth.from_annotations(found, "", keypoints=points)
    assert truth.keypoints.shape == (4, 3, 3)
    assert truth.keypoints[3].tolist() == [[9.5, 7.5, 2], [0, 0, 0], [0, 0, 0]]


def test_metadata_come_from_the_file(registered, tmp_path):
    truth = catalog.load_ground_truth(registered, keypoints=True)
    assert catalog.load_ground_truth(registered).keypoints is None
    metadata = catalog.MetadataCatalog.get(registered)
    assert metadata.keypoint_names == NAMES
    assert metadata.keypoint_flip_map == [("left_end", "right_end")]
    assert [rule[:2] for rule in metadata.keypoint_connection_rules] == [("tip", "left_end")]
    assert catalog.keypoint_layout([registered, "no such"]) == (NAMES, [("left_end", "right_end")])
    # Detectron2's standard form says the same.
    kept = [x for x in ENTRIES if not x["iscrowd"]]  # whose one number it would take for a point
    path = write(tmp_path, kept)
    items = catalog.DatasetCatalog.get(registered)
    other = GroundTruth.from_items(items, keypoints=True)
    np.testing.assert_array_equal(other.keypoints, truth.keypoints)
    joined = GroundTruth.join([truth, dataclasses.replace(truth, keypoints=None)])
    assert joined.keypoints.shape == (8, 3, 3) and not joined.keypoints[4:].any()
    assert joined.without_empty().keypoints is joined.keypoints
    assert read_annotations(path).category_keypoints[1] is None


def test_pairs_that_the_file_names(registered, tmp_path):
    """YOLO's labels say which points a mirror exchanges, not how they are called."""
    write(tmp_path, [], [{**CATEGORIES[0], "flip_pairs": [["tip", "right_end"]]}])
    catalog.load_ground_truth(registered)
    assert catalog.keypoint_layout([registered]) == (NAMES, [("tip", "right_end")])


def test_what_somebody_has_said_stays(registered):
    metadata = catalog.MetadataCatalog.get(registered)
    metadata.set(keypoint_names=["x", "y", "z"], keypoint_flip_map=[("x", "z")])
    catalog.load_ground_truth(registered, keypoints=True)
    assert catalog.keypoint_layout([registered]) == (["x", "y", "z"], [("x", "z")])
    assert metadata.get("keypoint_connection_rules") is None


@pytest.mark.parametrize(
    ("entries", "categories", "message"),
    [
        ([entry(8, keypoints=[1, 2, 2])], CATEGORIES, "annotation 8 has 3 numbers .* expected 9"),
        ([entry(8, keypoints="nine")], CATEGORIES, "annotation 8 has 'keypoints' that"),
        ([entry(8, keypoints=[1, 2, 5] * 3)], CATEGORIES, "annotation 8 has a keypoint of visib"),
        ([entry(8)], [{"id": 1, "name": "a", "keypoints": [1]}], "expected a list of names"),
    ],
)
def test_errors_name_file_and_object(tmp_path, registered, caplog, entries, categories, message):
    path = write(tmp_path, entries, categories)
    with pytest.raises(AnnotationFileError, match=rf"file\.json.*{message}"):
        read_keypoints(path, read_annotations(path))
    catalog.load_ground_truth(registered)  # nobody asks for them here
    assert ("keypoints cannot be used" in caplog.text) == (categories is not CATEGORIES)


def test_a_file_without_any(tmp_path):
    path = write(tmp_path, [entry(8)], [{"id": 1, "name": "a"}])
    assert read_keypoints(path, read_annotations(path)).shape == (1, 0, 3)


def test_a_prepared_copy_is_found_by_content(tmp_path, monkeypatch):
    path = write(tmp_path)
    path.write_text(path.read_text().replace('"area": 9', '"area": NaN'))  # which JSON has not
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    prepared_copies.keep_copies_in(tmp_path / "copies")
    try:
        found = read_annotations(path)
        first = read_keypoints(path, found)
        open_files.forget_files()
        with monkeypatch.context() as patch:
            patch.setattr(keypoint_files, "read_values", None)  # nobody may read the JSON again
            patch.setattr(open_files, "decode", None)
            again = read_annotations(path)
            np.testing.assert_array_equal(read_keypoints(path, again), first)
        assert again.category_keypoints == found.category_keypoints
        assert len([*(tmp_path / "copies").glob("*.keypoints.safetensors")]) == 1
    finally:
        prepared_copies.keep_copies_in(None)
        open_files.forget_files()


def test_dataset_dicts_that_make_no_sense():
    def items(*values):
        box = {"bbox": [1, 1, 8, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        objects = [{**box, "keypoints": x} for x in values]
        item = {"file_name": "a.png", "image_id": 0, "height": 9, "width": 9}
        return [{**item, "annotations": objects}]

    truth = GroundTruth.from_items(items([], [1, 2, 2], None), keypoints=True)
    assert truth.keypoints.tolist() == [[[0, 0, 0]], [[1, 2, 2]], [[0, 0, 0]]]
    assert GroundTruth.from_items(items([], None), keypoints=True).keypoints.shape == (2, 0, 3)
    assert GroundTruth.from_items(items([1, 2]), keypoints=False).keypoints is None
    with pytest.raises(ValueError, match=r"'a\.png'.*6 numbers.*expected 3"):
        GroundTruth.from_items(items([1, 2, 2], [1, 2, 2] * 2), keypoints=True)
    with pytest.raises(ValueError, match=r"'a\.png'.*3 numbers.*expected 6"):
        GroundTruth.from_items(items([1, 2, 2]), keypoints=True, num_keypoints=2)


def test_data_sets_of_different_keypoints(registered, tmp_path):
    one = catalog.load_ground_truth(registered, keypoints=True)
    none = dataclasses.replace(one, keypoints=np.zeros((4, 0, 3), np.float32))
    two = dataclasses.replace(one, keypoints=np.zeros((4, 2, 3), np.float32))
    check_layout([registered, "keypoints/none"], [one, none])
    with pytest.raises(ValueError, match="different numbers of keypoints"):
        check_layout([registered, "keypoints/two"], [one, two])
    with pytest.raises(ValueError, match="keypoint_names are"):
        check_layout([registered], [two])
    catalog.MetadataCatalog.get("keypoints/two").set(keypoint_names=["a", "b"])
    try:
        with pytest.raises(ValueError, match="different keypoints"):
            catalog.keypoint_layout([registered, "keypoints/two"])
    finally:
        catalog.MetadataCatalog.remove("keypoints/two")


# ---- keypoints and polygons follow


def paint(points: np.ndarray, height: int, width: int, fine: int = 8) -> np.ndarray:
    """(height, width) uint8 of a polygon with soft edges."""
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    # From continuous coordinates to numbers of pixels.
    cv2.fillPoly(canvas, [np.rint(points * fine - 0.5).astype(np.int32)], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def spot(point: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 of a disc with a soft edge."""
    y, x = np.mgrid[:height, :width] + 0.5
    distance = np.hypot(x - point[0], y - point[1])
    return (255 * (SPOT + 0.5 - distance).clip(0, 1)).astype(np.uint8)


@st.composite
def marked(draw) -> Sample:
    """A white triangle, whose corners are its keypoints: tip, left and right end."""
    angle, radius = draw(st.floats(0, 6.28)), draw(st.floats(55, 95))
    angles = angle + np.array([0.0, -2.2, 2.0])  # of no symmetry
    centre = [draw(st.floats(0.4, 0.6)) * SIZE for _ in range(2)]
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    channels = [paint(points, SIZE, SIZE), *(spot(x, SIZE, SIZE) for x in points)]
    listed = PolygonList()
    listed.add([points.ravel().tolist()])
    polygons = listed.finish()
    keypoints = np.concatenate([points, [[2], [2], [2]]], axis=1)[None].astype(np.float32)
    image = np.stack(channels, axis=2)
    return Sample(image, polygons.bounds(), np.array([0]), None, polygons, keypoints)


def assert_follows(sample: Sample, mirrored: bool, least: float = 0.97) -> int:
    """One object's polygon is where the colour is, and its keypoints where their spots are.

    Returns:
        How many keypoints have been seen.
    """
    assert len(sample.polygons) == len(sample.keypoints) == len(sample.labels) == 1
    height, width = sample.image.shape[:2]
    seen = sample.image[:, :, 0] > 127
    # Where nothing is drawn, it is grey: not more than a half.
    filled = paint_all(sample.polygons, height, width)
    if seen.sum() > 5000:
        assert (filled & seen).sum() / (filled | seen).sum() > least
    points, count = sample.keypoints[0], 0
    assert not points[points[:, 2] == 0].any()
    for k, (x, y, visibility) in enumerate(points):
        channel = sample.image[:, :, 1 + (ORDER[k] if mirrored else k)].astype(float)
        bright = channel > 160
        assert visibility in (0, 2)
        if visibility == 0:
            rows, columns = np.nonzero(bright)
            inside = (rows > SPOT) & (rows < height - SPOT)
            inside &= (columns > SPOT) & (columns < width - SPOT)
            assert inside.sum() < SPOT * SPOT
        elif MARGIN < x < width - MARGIN and MARGIN < y < height - MARGIN and bright.any():
            rows, columns = np.nonzero(bright)
            weights = channel[bright] - 120
            centre = np.array([columns + 0.5, rows + 0.5]) @ weights / weights.sum()
            assert np.hypot(*(centre - (x, y))) < 1
            count += 1
    return count


def paint_all(polygons: Polygons, height: int, width: int) -> np.ndarray:
    filled = np.zeros((height, width), bool)
    for points in polygons[0]:
        filled |= paint(points, height, width) > 127
    return filled


@pytest.mark.heavy
@PROPERTY
@given(marked())
def test_all_follow_flips(sample):
    assert assert_follows(sample, mirrored=False) > 0
    for flip in (flip_horizontal, flip_vertical):
        assert_follows(flip(sample, ORDER), mirrored=True)
    turned = flip_vertical(flip_horizontal(sample, ORDER), ORDER)
    assert_follows(turned, mirrored=False)  # half a turn
    with pytest.raises(AssertionError):
        assert_follows(flip_horizontal(sample), mirrored=True)  # left and right are not exchanged


@pytest.mark.heavy
@PROPERTY
@given(
    marked(),
    SEEDS,
    st.fixed_dictionaries(
        {
            "scale": st.sampled_from([0.0, 0.3]),
            "translate": st.sampled_from([0.1, 0.5]),
            "degrees": st.sampled_from([0.0, 45.0]),
            "shear": st.sampled_from([0.0, 15.0]),
            "perspective": st.sampled_from([0.0, 0.0008]),
        }
    ),
    st.booleans(),
)
def test_all_follow_any_warp(sample, seed, options, box_from_mask):
    canvas = SIZE + 40, SIZE + 20
    warp = random_warp(np.random.default_rng(seed), canvas, (260, 300), **options)
    tiles = [tile_of(sample, 10, 30)]
    seen = render(tiles, canvas, warp, (260, 300), 4, box_from_mask=box_from_mask)
    if len(seen.labels):
        assert_follows(seen, mirrored=False)
    if box_from_mask:
        np.testing.assert_array_equal(seen.boxes, seen.polygons.bounds())


def test_counts_of_what_was_seen():
    """The properties above do not pass because there was nothing to see."""
    rng, count = np.random.default_rng(0), 0
    points = np.array([[60.0, 60], [180, 90], [90, 180]])
    channels = [paint(points, SIZE, SIZE), *(spot(x, SIZE, SIZE) for x in points)]
    listed = PolygonList()
    listed.add([points.ravel().tolist()])
    known = np.concatenate([points, [[2], [2], [2]]], axis=1)[None].astype(np.float32)
    polygons = listed.finish()
    image = np.stack(channels, axis=2)
    sample = Sample(image, polygons.bounds(), np.array([0]), None, polygons, known)
    for _ in range(20):
        warp = random_warp(rng, (SIZE, SIZE), (SIZE, SIZE), scale=0.2, translate=0.2, degrees=30)
        seen = render([tile_of(sample)], (SIZE, SIZE), warp, (SIZE, SIZE), 4)
        count += assert_follows(seen, mirrored=False) if len(seen.labels) else 0
    assert count > 30


@pytest.mark.heavy
@settings(PROPERTY, max_examples=40)
@given(
    marked(),
    st.sampled_from([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]),
    st.sampled_from([0.0, 0.0006]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_all_follow_through_all_of_it(sample, mosaics, perspective, mirror, turn, position):
    """From dataset dicts to samples: resized, in mosaics of blank images, warped, mirrored."""
    box = {"bbox": sample.boxes[0].tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    box["segmentation"] = [sample.polygons.points.ravel().tolist()]
    box["keypoints"] = sample.keypoints[0].ravel().tolist()
    item = {"file_name": "a.png", "image_id": 0, "height": SIZE, "width": SIZE}
    items = [{**item, "annotations": [box]}, *[item] * 9]
    augment = AugmentConfig(
        mosaic=mosaics[0],
        mosaic9=mosaics[1],
        perspective=perspective,
        hsv=(0, 0, 0),
        flip=float(mirror),
        flip_vertical=float(turn),
        scale=0.2,
        translate=0.2,
    )
    truth = GroundTruth.from_items(items, polygons=True, keypoints=True)
    size = 280
    dataset = TrainingDataset(
        truth,
        size=size,
        seed=0,
        augment=augment,
        channels=4,
        with_polygons=True,
        with_keypoints=True,
        flip_order=ORDER,
    )
    large = cv2.resize(sample.image, (size, size), interpolation=cv2.INTER_LINEAR)
    shown = []

    def read_pixels(index):
        shown.append(index)
        return large if index == 0 else np.zeros_like(large)

    dataset.read_pixels = read_pixels
    found = dataset.compose(position, 0)
    if len(found.labels) == shown.count(0) == 1:
        # Parts of it may be covered by a later image of a mosaic of nine, which overlap nowhere.
        assert_follows(found, mirrored=mirror != turn)


def test_blends_have_those_of_both():
    keypoints = np.array([[[5, 5, 2], [0, 0, 0], [9, 1, 1]]], np.float32)
    image, box, label = np.zeros((20, 20, 3), np.uint8), np.array([[1.0, 1, 9, 9]]), np.array([1])
    one = Sample(image, box, label, keypoints=keypoints)
    both = mixup(one, flip_horizontal(one, ORDER), 0.5)
    assert both.keypoints.tolist() == [
        keypoints[0].tolist(),
        [[15, 5, 2], [11, 1, 1], [0, 0, 0]],
    ]
    assert mixup(one, Sample(image, box, label), 0.5).keypoints[1].tolist() == [[0, 0, 0]] * 3
    assert mixup(Sample(image, box, label), Sample(image, box, label), 0.5).keypoints is None


@settings(PROPERTY, max_examples=40)
@given(SEEDS)
def test_pasted_objects_bring_theirs(seed):
    """Points that are corners of the polygon still are; those of a cut polygon may be outside."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (3, 2))
    listed = PolygonList()
    listed.add([corners.ravel().tolist()])
    outline = listed.finish()
    x1, y1, x2, y2 = outline.bounds()[0]
    window = np.array([np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)], dtype=np.int64)
    cut = bool(rng.integers(2))
    window[0] += cut * (window[2] - window[0]) // 3  # some of it is not seen
    points = np.concatenate([corners, [[2], [1], [2]]], axis=1)[None].astype(np.float32)
    white = np.full((60, 60, 3), 255, np.uint8)
    found = CutObject(1, -1, outline, lambda: white, points)
    start = np.array([[[1, 2, 2]] * 3], np.float32)
    sample = Sample(
        np.zeros((100, 120, 3), np.uint8),
        np.array([[0.0, 0, 3, 3]]),
        np.array([0]),
        None,
        Polygons.empty(1),
        start,
    )
    cutouts = Cutouts(np.array([0]), np.array([0]), window[None])
    pasted = paste_in(sample, cutouts, lambda *_: found, rng)
    assert (
        len(pasted.keypoints) == len(pasted.labels)
        and pasted.keypoints[0].tolist() == start[0].tolist()
    )
    for i in range(1, len(pasted.labels)):
        left, top, right, bottom = pasted.boxes[i]
        for k, (x, y, visibility) in enumerate(pasted.keypoints[i]):
            expected = (corners[k] - window[:2]) * (
                np.array([right - left, bottom - top]) / (window[2:] - window[:2])
            )
            inside = (expected >= 0).all() and (expected <= (right - left, bottom - top)).all()
            assert visibility == (points[0, k, 2] if inside else 0)
            if inside:
                np.testing.assert_allclose((x - left, y - top), expected, atol=1e-3)
    # Without keypoints of the sample nobody asks for theirs.
    bare = dataclasses.replace(sample, keypoints=None)
    assert paste_in(bare, cutouts, lambda *_: found, np.random.default_rng(0)).keypoints is None


# ---- what is rare


def objects_of(boxes: np.ndarray) -> Sample:
    """Objects whose polygons and keypoints are the corners of their boxes."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    listed = PolygonList()
    for one in corners:
        listed.add([one.tolist()])
    points = np.concatenate([corners.reshape(-1, 4, 2), np.full((len(boxes), 4, 1), 2.0)], axis=2)
    labels = np.arange(len(boxes))
    image = np.zeros((100, 100, 3), np.uint8)
    return Sample(image, boxes, labels, None, listed.finish(), points.astype(np.float32))


FLIP = np.array([1, 0, 3, 2])  # left and right corners


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_few_and_many_objects(count):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 80, (count, 2))
    sample = objects_of(np.concatenate([low, low + rng.uniform(4, 20, (count, 2))], axis=1))
    mirrored = flip_horizontal(sample, FLIP)
    np.testing.assert_allclose(mirrored.keypoints[:, 0, 0], mirrored.boxes[:, 0], atol=1e-3)
    both = mixup(sample, flip_vertical(mirrored, FLIP), 0.5)
    assert len(both.keypoints) == len(both.polygons) == 2 * count
    options = {"scale": 0.3, "translate": 0.3, "degrees": 20}
    warp = random_warp(rng, (100, 100), (100, 100), **options)
    for box_from_mask in (False, True):
        seen = render([tile_of(sample)], (100, 100), warp, (100, 100), box_from_mask=box_from_mask)
        assert len(seen.keypoints) == len(seen.polygons) == len(seen.labels) == len(seen.boxes)
        bounds = seen.polygons.bounds()
        assert (bounds[:, :2] >= seen.boxes[:, :2] - 1e-3).all()
        assert (bounds[:, 2:] <= seen.boxes[:, 2:] + 1e-3).all()
        # A keypoint is a corner of its polygon, as far as it is inside.
        for i in range(0, len(seen.labels), 7):
            corners = np.concatenate(seen.polygons[i])
            for x, y, visibility in seen.keypoints[i]:
                distance = np.abs(corners - (x, y)).max(axis=1).min()
                assert distance < 1e-3 if visibility else (x, y) == (0, 0)


def test_one_pixel_and_the_whole_image():
    sample = objects_of(np.array([[7.0, 5, 8, 6], [0, 0, 100, 100]]))
    mirrored = flip_horizontal(sample, FLIP)
    assert mirrored.polygons.mask(0, 100, 100).nonzero() == (5, 92)
    assert mirrored.polygons.mask(1, 100, 100).all()
    assert mirrored.keypoints[0, :, :2].tolist() == [[92, 5], [93, 5], [93, 6], [92, 6]]
    assert mirrored.keypoints[1].tolist() == sample.keypoints[1].tolist()
    # Of the whole image a fifth of the columns and no corner on the left is left.
    seen = render([tile_of(sample)], (100, 100), Warp(translation(-80, 0)), (100, 100))
    assert seen.boxes.tolist() == [[0, 0, 20, 100]] and seen.labels.tolist() == [1]
    assert seen.keypoints[0].tolist() == [[0, 0, 0], [20, 0, 2], [20, 100, 2], [0, 0, 0]]
    # A pixel that becomes nine is an object again.
    seen = render([tile_of(sample)], (100, 100), Warp(np.diag([9.0, 9, 1]), 9.0), (100, 100))
    assert seen.boxes[0].tolist() == [63, 45, 72, 54]
    assert seen.polygons.mask(0, 100, 100).sum() == 81


def test_what_lies_outside_the_canvas_is_not_labelled():
    """Of an image that begins left of the canvas, its columns from 2 on."""
    sample = objects_of(np.array([[1.0, 1, 9, 9]]))
    seen = render([tile_of(sample, -2, 0)], (20, 20), Warp(translation(10, 2)), (40, 40))
    assert seen.boxes.tolist() == [[10, 3, 17, 11]]
    assert seen.keypoints[0].tolist() == [[0, 0, 0], [17, 3, 2], [17, 11, 2], [0, 0, 0]]


# ---- boxes of masks


def test_the_box_of_what_is_left():
    """A triangle turned by a right angle's half, one without polygon, and one out of view."""
    sample = objects_of(np.array([[40.0, 40, 60, 60], [10, 40, 30, 60], [0.0, 0, 30, 12]]))
    listed = PolygonList()
    listed.add([[40, 40, 60, 40, 40, 60]])
    listed.add(None)
    listed.add([[0, 0, 2, 0, 0, 2]])  # a little of its box
    sample.polygons = listed.finish()
    turn = np.sqrt(0.5) * np.array([[1, -1, 0], [1, 1, 0], [0, 0, np.sqrt(2)]])
    warp = Warp(translation(50, 50) @ turn @ translation(-50, -50))
    seen, tight = (
        render([tile_of(sample)], (100, 100), warp, (100, 100), box_from_mask=x)
        for x in (False, True)
    )
    side = 20 * np.sqrt(0.5)
    whole = [50 - side, 50 - side, 50 + side, 50 + side]
    np.testing.assert_allclose(seen.boxes[0], whole, atol=1e-6)
    # The half of the square above the diagonal, which now lies level.
    np.testing.assert_allclose(tight.boxes[0], [50 - side, 50 - side, 50 + side, 50], atol=1e-4)
    np.testing.assert_allclose(tight.boxes[1], seen.boxes[1])
    assert seen.labels.tolist() == [0, 1, 2] and tight.labels.tolist() == [0, 1]
    assert len(tight.keypoints) == len(tight.identities) == 2


def test_boxes_of_masks_draw_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    items = []
    for i in range(6):
        path = str(tmp_path / f"{i}.png")
        cv2.imwrite(path, rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        objects = []
        for _ in range(4):
            x, y = rng.integers(0, 40, 2)
            shape = [x, y, x + 20, y, x, y + 20]
            box = {"bbox": [x, y, x + 20, y + 20], "bbox_mode": BoxMode.XYXY_ABS}
            objects.append({**box, "category_id": 0, "segmentation": [list(map(int, shape))]})
        item = {"file_name": path, "image_id": i, "height": 64, "width": 64}
        items.append({**item, "annotations": objects})
    truth = GroundTruth.from_items(items, polygons=True)
    augment = AugmentConfig(degrees=40, mixup=0.5)
    plain, masks, tight = (
        TrainingDataset(truth, size=64, seed=0, augment=x, with_polygons=y)
        for x, y in [
            (augment, False),
            (augment, True),
            (dataclasses.replace(augment, box_from_mask=True), False),
        ]
    )
    smaller = 0
    for position in range(12):
        first, second, third = (x[position, position % 6] for x in (plain, masks, tight))
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["image"], third["image"])
        assert [*first["instances"].get_fields()] == ["gt_boxes", "gt_classes"]
        assert [*third["instances"].get_fields()] == ["gt_boxes", "gt_classes"]
        boxes = first["instances"].gt_boxes.tensor
        assert torch.equal(boxes, second["instances"].gt_boxes.tensor)
        around = second["instances"].gt_masks.get_bounding_boxes().tensor
        found = third["instances"].gt_boxes.tensor
        kept = (around[:, 2:] - around[:, :2]).amin(dim=1) > 2
        torch.testing.assert_close(found, around[kept & torch.isfinite(around).all(dim=1)])
        smaller += int((found != boxes[: len(found)]).any())
    assert smaller > 6


# ---- what training gets


def test_instances_carry_what_is_asked_for(cfg, tmp_path, monkeypatch):
    from yolor_d2 import toy
    from yolor_d2.data.options import use_data
    from yolor_d2.datasets.catalog import register_datasets

    data = toy.write_toy_dataset(
        tmp_path / "toy", num_train=4, num_val=2, image_size=(96, 128), keypoints=True
    )
    use_data(cfg, (str(data.train_json), str(data.train_images)), None)
    register_datasets(cfg)
    plain = build_training_dataset(cfg)
    monkeypatch.setattr(training_data, "ground_truth_needed", lambda _: {"polygons", "keypoints"})
    dataset = build_training_dataset(cfg)
    assert dataset.flip_order.tolist() == ORDER.tolist()
    known = 0
    for position in range(6):
        sample, other = dataset[position, 0]["instances"], plain[position, 0]["instances"]
        assert sorted(sample.get_fields()) == [
            "gt_boxes",
            "gt_classes",
            "gt_keypoints",
            "gt_masks",
        ]
        assert sample.gt_keypoints.tensor.dtype == torch.float32
        assert sample.gt_keypoints.tensor.shape == (len(sample), 3, 3)
        assert len(sample.gt_masks) == len(sample)
        assert torch.equal(sample.gt_boxes.tensor, other.gt_boxes.tensor)
        assert not other.has("gt_masks") and not other.has("gt_keypoints")
        known += int((sample.gt_keypoints.tensor[..., 2] > 0).sum())
    assert known > 10
    taken = take_fingerprint(dataset, [], [])
    names = dataset.truth.file_names
    assert describe_changes(taken, take_fingerprint(plain, [], []), names) == []
    dataset.truth.keypoints[:] = 1
    (change,) = describe_changes(taken, take_fingerprint(dataset, [], []), names)
    assert "with other keypoints" in change


def test_what_is_needed_must_be_there(cfg, monkeypatch):

    truth = build_training_dataset(cfg).truth
    with pytest.raises(ValueError, match=r"with_keypoints is True.*keypoints=True"):
        TrainingDataset(truth, size=64, seed=0, with_keypoints=True)
    boxes = AugmentConfig(box_from_mask=True)
    with pytest.raises(ValueError, match=r"box_from_mask True.*polygons=True"):
        TrainingDataset(truth, size=64, seed=0, augment=boxes)
    monkeypatch.setattr(training_data, "ground_truth_needed", lambda _: {"keypoints"})
    with pytest.raises(ValueError, match=r"no object of DATASETS\.TRAIN .* has keypoints"):
        build_training_dataset(cfg)
    monkeypatch.setattr(training_data, "ground_truth_needed", lambda _: {"polygons"})
    none = lambda path, found: Polygons.empty(len(found.ids))  # noqa: E731
    monkeypatch.setattr("yolor_d2.datasets.catalog.read_polygons", none)
    with pytest.raises(ValueError, match=r"no object of DATASETS\.TRAIN .* has a mask"):
        build_training_dataset(cfg)


def test_a_set_without_masks_keeps_its_boxes(cfg, monkeypatch, caplog):
    cfg.INPUT.AUGMENT.BOX_FROM_MASK = True
    none = lambda path, found: Polygons.empty(len(found.ids))  # noqa: E731
    monkeypatch.setattr("yolor_d2.datasets.catalog.read_polygons", none)
    with caplog.at_level(logging.WARNING):
        dataset = build_training_dataset(cfg)
    assert "BOX_FROM_MASK is True, but no object" in caplog.text
    plain = TrainingDataset(dataset.truth, size=64, seed=dataset.seed)
    dataset.augment = dataclasses.replace(plain.augment, box_from_mask=True)
    one, other = dataset[3, 1]["instances"], plain[3, 1]["instances"]
    assert torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)


# ---- What a run logs of them


def test_a_run_takes_what_points_there_are_from_its_data(tmp_path):
    from yolor_d2.config import load_config
    from yolor_d2.data.options import use_data
    from yolor_d2.data.training_data import TrainingData
    from yolor_d2.datasets.catalog import register_datasets
    from yolor_d2.tasks import forget_data, settle_tasks
    from yolor_d2.toy import write_toy_dataset

    toy = write_toy_dataset(
        tmp_path, num_train=8, num_val=1, image_size=(96, 96), keypoints=True, objects=(4, 6)
    )
    cfg = load_config("quick/toy_cpu.yaml", ["MODEL.DEVICE", "cpu"])
    node = cfg.MODEL.YOLOR.TASKS.KEYPOINTS
    node.ENABLED = True
    use_data(cfg, *2 * [(str(toy.train_json), str(toy.train_images))])
    register_datasets(cfg)
    settle_tasks(cfg, TrainingData(cfg))
    assert node.NUM_KEYPOINTS == 3 and node.NAMES == ["tip", "left_end", "right_end"]
    assert node.FLIP_PAIRS == [["left_end", "right_end"]] and len(node.SKELETON) == 3
    assert node.CLASSES == [1, 2]  # triangles and crosses, of four classes
    forget_data(cfg)
    assert node.NUM_KEYPOINTS == 0 and not (node.NAMES or node.CLASSES or node.SKELETON)
