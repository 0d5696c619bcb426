"""Polygons: flat arrays by hand, what is read of files, and that they follow what they surround."""

import dataclasses
import json
import logging
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import tile_of

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.augmentation.image import Sample, flip_horizontal, flip_vertical, mixup
from yolor_d2.data.augmentation.warp import Warp, random_warp, render, translation
from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.datasets import catalog, prepared_copies
from yolor_d2.datasets import polygons as polygon_files
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.datasets.open_files import read_annotations
from yolor_d2.datasets.polygons import read_polygons
from yolor_d2.structures.polygons import PolygonList, Polygons

PROPERTY = settings(max_examples=60, deadline=None, database=None, derandomize=True)
SEEDS = st.integers(0, 2**31)
SQUARE, TRIANGLE = [1, 1, 5, 1, 5, 5, 1, 5], [6, 2, 9, 2, 9, 8]


def polygons_of(*shapes) -> Polygons:
    """Of objects, each with lists of x1, y1, x2, y2, ... or None."""
    listed = PolygonList()
    for shape in shapes:
        listed.add(shape)
    return listed.finish()


def as_lists(polygons: Polygons) -> list:
    return [[part.ravel().tolist() for part in polygons[i]] for i in range(len(polygons))]


def area(points: np.ndarray) -> float:
    x, y = points.T.astype(float)
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


# ---- flat arrays


def test_by_hand():
    polygons = polygons_of([SQUARE], None, [TRIANGLE, SQUARE])
    assert polygons.points.shape == (11, 2) and polygons.points.dtype == np.float32
    assert polygons.ends.tolist() == [4, 7, 11] and polygons.parts.tolist() == [1, 1, 3]
    assert as_lists(polygons) == [[SQUARE], [], [TRIANGLE, SQUARE]]
    assert polygons.counts.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(polygons.bounds(), [[1, 1, 5, 5], [math.nan] * 4, [1, 1, 9, 8]])
    assert as_lists(polygons.rows(1, 3)) == [[], [TRIANGLE, SQUARE]]
    assert as_lists(polygons.rows(1, 1)) == []
    assert as_lists(polygons.map(lambda x: x + (1, 0)))[2][0] == [7, 2, 10, 2, 10, 8]
    joined = Polygons.join([polygons, Polygons.empty(2), polygons_of([TRIANGLE])])
    assert as_lists(joined) == [[SQUARE], [], [TRIANGLE, SQUARE], [], [], [TRIANGLE]]


SHAPES = st.lists(
    st.lists(st.sampled_from([SQUARE, TRIANGLE, [*SQUARE, 0, 3]]), max_size=3), max_size=8
)


@PROPERTY
@given(SHAPES, st.data())
def test_taking_some_is_that_of_lists(shapes, data):
    polygons = polygons_of(*shapes)
    order = data.draw(st.lists(st.sampled_from(range(len(shapes))), max_size=9)) if shapes else []
    taken = polygons.take(np.array(order, dtype=np.int64))
    assert as_lists(taken) == [shapes[i] for i in order]
    kept = data.draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
    expected = [shape for shape, keep in zip(shapes, kept) if keep]
    assert as_lists(polygons.take(np.array(kept, dtype=bool))) == expected


@pytest.mark.parametrize(
    ("shape", "expected", "malformed"),
    [
        (None, [], 0),
        ([], [], 0),
        ({"counts": [3], "size": [1, 3]}, [], 0),  # run lengths of nothing
        ({"counts": [1, 2], "size": [1, 3]}, [[1, 0, 1, 1, 3, 1, 3, 0]], 0),
        ({"counts": [4], "size": [1, 3]}, [], 1),
        ([SQUARE, [1, 2, 3, 4], TRIANGLE[:5], TRIANGLE], [SQUARE, TRIANGLE], 0),
        ([[1, 2, 3, 4]], [], 1),
        ([[1, 2, 3, "4", 5, 6]], [], 1),
        ([[1, 2, None, 4, 5, 6], SQUARE], [SQUARE], 0),
        ([[1, 2, math.nan, 4, 5, 6], SQUARE], [SQUARE], 1),
        ("polygon", [], 1),
        (SQUARE, [], 1),
    ],
)
def test_outlines_of_every_form(shape, expected, malformed):
    listed = PolygonList()
    for one in (shape, [TRIANGLE]):
        listed.add(one)
    assert as_lists(listed.finish()) == [expected, [TRIANGLE]]
    assert listed.malformed == malformed


# ---- cutting


def test_cut_by_hand():
    beyond = [-2, 1, 4, 1, 4, 3, -2, 3]  # a rectangle over the left border
    apex = [2, 2, 14, 8, 2, 8]  # crosses x = 10 at y = 6
    cut = polygons_of([beyond, SQUARE], [[20, 20, 30, 20, 30, 30]], None, [apex]).cut(10, 10)
    assert [len(x) for x in as_lists(cut)] == [2, 0, 0, 1]
    assert as_lists(cut)[0][1] == SQUARE
    assert sorted(zip(*[iter(as_lists(cut)[0][0])] * 2)) == [(0, 1), (0, 3), (4, 1), (4, 3)]
    assert sorted(zip(*[iter(as_lists(cut)[3][0])] * 2)) == [(2, 2), (2, 8), (10, 6), (10, 8)]
    # Each object by the sides of its own image.
    two = polygons_of([SQUARE], [SQUARE]).cut(np.array([10, 3]), np.array([10, 2]))
    np.testing.assert_array_equal(two.bounds(), [[1, 1, 5, 5], [1, 1, 3, 2]])


@settings(PROPERTY, max_examples=30)
@given(SEEDS)
def test_cut_is_what_is_inside(seed):
    rng = np.random.default_rng(seed)
    shapes = [[rng.uniform(-30, 70, 2 * rng.integers(3, 9)).tolist()] for _ in range(5)]
    polygons = polygons_of(*shapes)
    cut = polygons.cut(40, 30)
    bounds = cut.bounds()[cut.counts > 0]
    assert (bounds >= 0).all() and (bounds <= [40, 30, 40, 30]).all()
    for i, shape in enumerate(shapes):
        expected = are_inside(np.reshape(shape[0], (-1, 2)), 30, 40)
        found = np.zeros((30, 40), bool)
        for points in cut[i]:
            found |= are_inside(points.astype(float), 30, 40)
        assert (found != expected).sum() <= 2  # rounding in float32


# ---- files

COLUMN = [1, 1, 1, 4, 2, 4, 2, 1]
IMAGES = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 10} for i in (4, 2)]


def entry(number, image, shape, **more) -> dict:
    known = {"id": number, "image_id": image, "category_id": 1, "bbox": [1, 1, 8, 4], "area": 9}
    return {**known, "iscrowd": 0, **({} if shape is None else {"segmentation": shape}), **more}


ENTRIES = [
    entry(9, 4, [SQUARE]),
    entry(3, 2, {"counts": [8 + 1, 3, 68], "size": [8, 10]}),  # of its second column
    entry(4, 2, {"counts": [3, 5], "size": [2, 4]}),  # of another size
    entry(5, 4, None),
    entry(7, 2, [TRIANGLE, [1.5, 1, 3, 1, 3, 30]]),
    entry(1, 99, [SQUARE]),  # of no image
    entry(2, 2, [SQUARE], iscrowd=1),
    entry(8, 2, [[1, 2, "3", 4, 5, 6]]),
    entry(6, 2, [SQUARE], bbox=[20, 20, 3, 3]),  # outside its image
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.json"
    data = {"images": IMAGES, "annotations": ENTRIES, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(data))
    return path


def test_polygons_of_a_file(path, caplog):
    found = read_annotations(path)
    assert found.ids.tolist() == [3, 4, 7, 2, 8, 6, 9, 5]
    with caplog.at_level(logging.WARNING):
        polygons = read_polygons(path, found)
    assert as_lists(polygons) == [
        [COLUMN],
        [],
        [TRIANGLE, [1.5, 1, 3, 1, 3, 30]],
        [],
        [],
        [SQUARE],
        [SQUARE],
        [],
    ]
    assert "2 objects without polygons" in caplog.text and "of the image's size" in caplog.text
    truth = GroundTruth.from_annotations(found, "", polygons=polygons)
    assert truth.polygons is not None
    assert [len(x) for x in as_lists(truth.polygons)] == [1, 0, 2, 0, 1, 0]
    assert truth.polygons.bounds()[2].tolist() == [1.5, 1, 9, 8]  # cut at the height of the image


def test_numbers_that_json_does_not_know(path):
    path.write_text(path.read_text().replace('"area": 9', '"area": NaN'))
    found = read_annotations(path)
    assert as_lists(read_polygons(path, found))[:1] == [[COLUMN]]
    assert as_lists(read_polygons(path, found))[2] == [TRIANGLE, [1.5, 1, 3, 1, 3, 30]]


def test_a_prepared_copy_is_found_by_content(path, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    prepared_copies.keep_copies_in(tmp_path / "copies")
    try:
        found = read_annotations(path)
        first = read_polygons(path, found)
        (copy,) = (tmp_path / "copies").glob("*.polygons.safetensors")
        with monkeypatch.context() as patch:
            patch.setattr(polygon_files, "decode", None)  # nobody may read the JSON again
            again = read_polygons(path, found)
        for name, value in vars(first).items():
            np.testing.assert_array_equal(vars(again)[name], value)
        # One of other objects, or damaged, is made again.
        other = dataclasses.replace(found, ids=found.ids[::-1])
        assert as_lists(read_polygons(path, other)) == as_lists(first)[::-1]
        copy.write_bytes(b"garbage")
        assert as_lists(read_polygons(path, found)) == as_lists(first)
    finally:
        prepared_copies.keep_copies_in(None)


def test_dataset_dicts_have_the_same(path):
    catalog.register_coco_file("polygons/file", str(path), "")
    try:
        one = catalog.load_ground_truth("polygons/file", polygons=True)
        assert catalog.load_ground_truth("polygons/file").polygons is None
        # Detectron2's reader leaves object 8 out, whose polygon has text.
        kept = [x for x in ENTRIES if x["id"] != 8]
        data = {"images": IMAGES, "annotations": kept, "categories": [{"id": 1, "name": "a"}]}
        path.write_text(json.dumps(data))
        items = catalog.DatasetCatalog.get("polygons/file")
        other = GroundTruth.from_items(items, polygons=True)
    finally:
        catalog.DatasetCatalog.remove("polygons/file")
        catalog.MetadataCatalog.remove("polygons/file")
    shapes = as_lists(other.polygons)
    assert shapes == [x for i, x in enumerate(as_lists(one.polygons)) if i != 3]
    joined = GroundTruth.join([one, dataclasses.replace(one, polygons=None)])
    assert as_lists(joined.polygons) == as_lists(one.polygons) + [[]] * len(one.labels)
    assert GroundTruth.join([one, one]).without_empty().polygons is not None


# ---- polygons follow


def are_inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: a ray from the centre of a pixel crosses an odd number of edges."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0)):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


def star(rng: np.random.Generator, centre, radius: float) -> np.ndarray:
    """(n, 2) points around a centre."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 9)))
    radii = radius * rng.uniform(0.6, 1.0, len(angles))
    return centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@st.composite
def coloured(draw, size=96) -> Sample:
    """A red object of one or two polygons on black."""
    rng = np.random.default_rng(draw(SEEDS))
    count = draw(st.integers(1, 2))
    outlines = [star(rng, (size * (0.3 + 0.4 * i), size / 2), size * 0.28) for i in range(count)]
    image = np.zeros((size, size, 3), np.uint8)
    for points in outlines:
        image[are_inside(points, size, size), 0] = 255
    shape = [points.ravel().tolist() for points in outlines]
    polygons = polygons_of(shape)
    return Sample(image, polygons.bounds(), np.array([0]), polygons=polygons)


def assert_polygons_cover_red(sample: Sample, colour: int = 0, least: float = 0.9) -> None:
    """Filled polygons are where the colour is."""
    others = np.delete(sample.image.astype(int), colour, axis=2).max(axis=2)
    red = sample.image[:, :, colour].astype(int) - others
    red = red > red.max() / 2
    assert sample.polygons is not None and len(sample.polygons) == len(sample.labels)
    filled = np.zeros(red.shape, bool)
    for i in np.flatnonzero(sample.labels == colour).tolist():
        filled |= sample.polygons.mask(i, *red.shape)
    if red.sum() > 400:
        assert (filled & red).sum() / (filled | red).sum() > least


@pytest.mark.heavy
@PROPERTY
@given(coloured())
def test_polygons_follow_flips(sample):
    assert_polygons_cover_red(sample)
    assert_polygons_cover_red(flip_horizontal(sample))
    assert_polygons_cover_red(flip_vertical(sample))
    twice = flip_vertical(flip_vertical(flip_horizontal(flip_horizontal(sample))))
    np.testing.assert_allclose(twice.polygons.points, sample.polygons.points, atol=1e-4)


@pytest.mark.heavy
@PROPERTY
@given(coloured(), coloured())
def test_polygons_of_both_parts_of_a_blend(first, second):
    second = Sample(second.image[:, :, [2, 1, 0]], second.boxes, np.array([2]))
    assert len(mixup(first, second, 0.5).polygons[1]) == 0  # none are known
    second = dataclasses.replace(first, image=first.image[:, :, [2, 1, 0]], labels=np.array([2]))
    second = flip_horizontal(second)
    mixed = mixup(first, second, 0.5)
    overlap = (mixed.image[:, :, [0, 2]] > 80).all(axis=2)
    if overlap.sum() < 100:
        for colour in (0, 2):
            assert_polygons_cover_red(mixed, colour, least=0.75)


@pytest.mark.heavy
@PROPERTY
@given(
    coloured(),
    SEEDS,
    st.fixed_dictionaries(
        {
            "scale": st.sampled_from([0.0, 0.5]),
            "translate": st.sampled_from([0.1, 0.5]),
            "degrees": st.sampled_from([0.0, 45.0]),
            "shear": st.sampled_from([0.0, 20.0]),
            "perspective": st.sampled_from([0.0, 0.003]),
        }
    ),
)
def test_polygons_follow_any_warp(sample, seed, options):
    warp = random_warp(np.random.default_rng(seed), (96, 96), (128, 128), **options)
    seen = render([tile_of(sample)], (96, 96), warp, (128, 128))
    assert len(seen.polygons) == len(seen.labels)
    if len(seen.labels):
        assert_polygons_cover_red(seen)


@settings(PROPERTY, max_examples=40)
@given(
    coloured(),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 0.003]),
    st.integers(0, 10**6),
)
def test_polygons_follow_through_all_of_it(sample, mosaic, mosaic9, perspective, position):
    """Images of half the size, with and without the object, in every kind of sample."""
    shape = [x.ravel().tolist() for x in sample.polygons[0]]
    box = {"bbox": sample.boxes[0].tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    item = {"file_name": "a.png", "image_id": 0, "height": 96, "width": 96}
    items = [{**item, "annotations": [{**box, "segmentation": shape}]}, item, item, item]
    augment = AugmentConfig(
        mosaic=mosaic,
        mosaic9=mosaic9,
        perspective=perspective,
        hsv=(0, 0, 0),
        flip_vertical=0.5,
        scale=0.3,
        translate=0.2,
    )
    truth = GroundTruth.from_items(items, polygons=True)
    dataset = TrainingDataset(truth, size=128, seed=0, augment=augment, with_polygons=True)
    small = cv2.resize(sample.image, (128, 128), interpolation=cv2.INTER_LINEAR)
    shown = []

    def read_pixels(index):
        shown.append(index)
        return small if index == 0 else np.zeros_like(small)

    dataset.read_pixels = read_pixels
    found = dataset.compose(position, 0)
    if len(found.labels) == shown.count(0) > 0:  # none is too small for a box
        assert_polygons_cover_red(found)


def test_what_lies_outside_the_canvas_is_cut_off():
    """Of an image that begins left of the canvas, its columns from 2 on."""
    sample = Sample(np.zeros((20, 20, 3), np.uint8), np.array([[1.0, 1, 5, 5]]), np.array([0]))
    sample.polygons = polygons_of([SQUARE])
    seen = render([tile_of(sample, -2, 0)], (20, 20), Warp(translation(10, 2)), (40, 40))
    assert seen.boxes.tolist() == seen.polygons.bounds().tolist() == [[10, 3, 13, 7]]


def test_areas_stay_under_shear():
    """Of a triangle that stays inside: what a matrix of determinant 1 does to it."""
    sample = Sample(np.zeros((20, 20, 3), np.uint8), np.array([[6.0, 2, 9, 8]]), np.array([0]))
    sample.polygons = polygons_of([TRIANGLE])
    matrix = np.array([[1.0, 0.5, 1], [0, 1, 3], [0, 0, 1]])
    seen = render([tile_of(sample)], (20, 20), Warp(matrix), (30, 30))
    np.testing.assert_allclose(seen.polygons[0][0], [[8, 5], [11, 5], [14, 11]], atol=1e-5)
    assert area(seen.polygons[0][0]) == pytest.approx(9)
