"""The dataset doctor on masks and keypoints: a hand-made case of every kind, and of its repair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from faster_coco_eval.core import mask as coco_mask

from yolor_d2.datasets.forms import bounds_of_runs
from yolor_d2.doctor import KINDS, Source, check_sources
from yolor_d2.doctor import masks as module
from yolor_d2.doctor import pictures as drawing
from yolor_d2.doctor.masks import crossings, has_area
from yolor_d2.doctor.pictures import draw_findings
from yolor_d2.doctor.quick import quick_check
from yolor_d2.doctor.repair import repair
from yolor_d2.structures.polygons import signed_areas
from yolor_d2.structures.run_lengths import read_runs

# Of an image of 48 x 64 pixels.
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
BOX = [10, 10, 20, 20]
NAMES = ["nose", "left_eye", "right_eye"]
PAIRS = [["left_eye", "right_eye"]]
POINTS = [20, 12, 2, 15, 20, 1, 0, 0, 0]


def data_set(segmentation: object = None, box=BOX, category=None, **more) -> dict:
    """One object with this mask, and more keys."""
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
    if segmentation is not None:
        entry["segmentation"] = segmentation
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "annotations": [{**entry, **more}],
        "categories": [{"id": 1, "name": "cat", **(category or {})}],
    }


def check(data: dict, *needed: str) -> Source:
    source = Source("train", Path("train.json"), Path("."), data, needed=frozenset(needed))
    check_sources([source], read_images=False)
    return source


def kinds(source: Source) -> list[str]:
    return sorted(x.kind for x in source.findings)


def run_lengths(mask: np.ndarray, *, compressed: bool = True) -> dict:
    """Run lengths of a mask by COCO's own tools."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"]
    if compressed:
        return {"size": list(mask.shape), "counts": counts.decode()}
    shape = {"size": list(mask.shape), "counts": counts.decode()}
    return {**shape, "counts": read_runs(shape)[0].tolist()}


def square_mask(size: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[10:30, 10:30] = True
    return mask


def test_masks_and_points_that_are_right():
    for shape in ([SQUARE], run_lengths(square_mask()), [], None):
        assert kinds(check(data_set(shape))) == []
    shape = run_lengths(square_mask(), compressed=False)
    assert shape["counts"][:3] == [490, 20, 28]  # 10 columns of 48 and 10 pixels; 20 of 20
    assert kinds(check(data_set(shape))) == []
    category = {"keypoints": NAMES, "skeleton": [[1, 2], [3, 1]], "flip_pairs": PAIRS}
    data = data_set([SQUARE], category=category, keypoints=POINTS, num_keypoints=2)
    needed = frozenset(("polygons", "keypoints"))
    source = Source("train", Path("train.json"), Path("."), data, needed=needed)
    report = check_sources([source], read_images=False)
    assert kinds(source) == []
    assert (report.statistics["train"]["masks"], report.statistics["train"]["keypoints"]) == (1, 1)
    assert "1 object with masks, 1 object with keypoints" in report.as_text(3)


CUT = [1, 2, 3, 4, 5]
# The mask of an object, the kind that is found, words of its message, and what the repair leaves.
MASKS = [
    ([SQUARE, [1, 2, 3, 4]], "polygon_short", "polygon 1 has 4 numbers", [SQUARE]),
    ([CUT + [6, 7], SQUARE], "polygon_malformed", "polygon 0 has 7 numbers", [SQUARE]),
    ([["x"] * 6, SQUARE], "polygon_malformed", "polygon 0 is ['x',", [SQUARE]),
    ([[*CUT, float("nan")], SQUARE], "polygon_malformed", "not finite", [SQUARE]),
    ([[*CUT, 10**400], SQUARE], "polygon_malformed", "polygon 0 is [1,", [SQUARE]),
    ([SQUARE, [10, 10, 20, 20, 30, 30]], "polygon_empty", "polygon 1 has no area", [SQUARE]),
    ([SQUARE, [64, 9, 70, 9, 70, 5]], "polygon_outside", "outside its image of 64 x 48", [SQUARE]),
    (
        [SQUARE, [25, 25, 30, 25, 30, 60, 25, 60]],
        "polygon_partly_outside",
        "polygon 1 reaches beyond its image of 64 x 48",
        [SQUARE, [25, 25, 30, 25, 30, 48, 25, 48]],
    ),
    ([[10, 10, 30, 30, 30, 10, 10, 30]], "polygon_crosses_itself", "polygon 0 crosses", None),
    ([[50, 30, 60, 30, 60, 40]], "mask_far_from_box", "[50, 30, 10, 10], 'bbox' is [10,", None),
    (run_lengths(square_mask((64, 48))), "run_lengths_size_differs", "64 high and 48 wide", []),
    ({"size": [48, 64], "counts": [1, 2]}, "run_lengths_malformed", "have 3 pixels", []),
    ({"size": [48, 64], "counts": "~~"}, "run_lengths_malformed", "are no such text", []),
    ({"size": [48, 64], "counts": "P"}, "run_lengths_malformed", "no such text", []),
    ({"size": [48, 64], "counts": "P" * 8 + "1"}, "run_lengths_malformed", "no such text", []),
    ({"size": [48, 64], "counts": "O"}, "run_lengths_malformed", "out of range", []),
    ({"size": [-48, -64], "counts": [48 * 64]}, "run_lengths_malformed", "size [-48, -64]", []),
    (run_lengths(np.zeros((48, 64), bool)), "run_lengths_empty", "no pixel", []),
    ([[1, 2, 3, 4]], "segmentation_malformed", "expected polygons of at least three points", []),
]


@pytest.mark.parametrize("shape, kind, words, left", MASKS)
def test_masks(shape, kind, words, left):
    data = data_set(shape, box=[10, 10, 20, 38] if kind == "polygon_partly_outside" else BOX)
    before = json.dumps(data)
    source = check(data)
    (finding,) = source.findings
    assert finding.kind == kind and words in finding.message
    assert (finding.section, finding.place, finding.annotation_id) == ("annotations", 0, 1)
    # Boxes can be learned as before; masks cannot from what is not one.
    assert (finding.severity == "error") == (kind == "segmentation_malformed")
    (needed,) = check(data, "polygons").findings[:1]
    assert (needed.severity == "error") == KINDS[kind].stops
    fixed, changes = repair(source)
    assert json.dumps(data) == before
    (entry,) = fixed["annotations"]
    assert entry["segmentation"] == (shape if left is None else left)
    assert bool(changes) == (left is not None) == bool(KINDS[kind].repair)
    if left is not None:
        assert kinds(check(fixed)) == []


def test_several_faults_of_one_mask_are_mended_together():
    shape = [[1, 2], SQUARE, [5, 5, 9, 9, 13, 13], [20, 20, 90, 20, 90, 29, 20, 29]]
    source = check(data_set(shape, box=[10, 10, 54, 20]))
    assert kinds(source) == ["polygon_empty", "polygon_partly_outside", "polygon_short"]
    fixed, changes = repair(source)
    expected = [SQUARE, [20, 20, 64, 20, 64, 29, 20, 29]]
    assert fixed["annotations"][0]["segmentation"] == expected
    (change,) = changes
    assert change["before"]["segmentation"] == shape
    assert change["after"]["segmentation"] == expected
    assert all(kind in change["why"] for kind in kinds(source))


def test_the_area_of_a_mask_stays_where_its_box_is_cut():
    data = data_set([SQUARE], box=[10, 10, 20, 60])
    data["annotations"][0]["area"] = 399.0
    source = check(data)
    assert "box_partly_outside" in kinds(source)
    (entry,) = repair(source)[0]["annotations"]
    assert (entry["bbox"], entry["area"]) == ([10, 10, 20, 38], 399)


def test_crowds_have_no_box_to_be_far_from():
    data = data_set([SQUARE])
    crowd = {**data["annotations"][0], "id": 2, "iscrowd": 1, "bbox": [40, 30, 9, 9]}
    data["annotations"].append({**crowd, "segmentation": run_lengths(square_mask())})
    assert kinds(check(data, "polygons")) == []
    data["annotations"][1]["segmentation"]["size"] = [64, 48]
    assert kinds(check(data)) == ["run_lengths_size_differs"]


def test_masks_that_are_missing_matter_where_they_are_needed():
    data = data_set()
    assert kinds(check(data)) == []
    (finding,) = check(data, "polygons").findings
    assert (finding.kind, finding.severity) == ("no_masks", "error")
    data = data_set([SQUARE])
    more = {**data["annotations"][0], "id": 2, "bbox": [40, 10, 9, 9], "segmentation": []}
    data["annotations"].append(more)
    (finding,) = check(data, "polygons").findings
    assert (finding.kind, finding.severity, finding.place) == ("mask_missing", "notice", 1)


# ---- What is computed of polygons

# Polygons, and whether they cross themselves. The last two of each are large and small.
SHAPES = {
    "bow tie": ([(0, 0), (9, 9), (9, 0), (0, 9)], True),
    "star": ([(5, 0), (8, 9), (0, 3), (10, 3), (2, 9)], True),
    "hole with a cut": (
        [(0, 0), (9, 0), (9, 9), (0, 9), (0, 0), (3, 3), (3, 6), (6, 6), (6, 3), (3, 3)],
        False,
    ),
    "touching itself": ([(0, 0), (5, 5), (0, 10), (10, 10), (5, 5), (10, 0)], False),
    "less than half a pixel": ([(0, 0), (10, 0), (10, 10), (5, -0.4), (0, 10)], False),
    "half a pixel and more": ([(0, 0), (10, 0), (10, 10), (5, -0.6), (0, 10)], True),
    "concave": ([(0, 0), (10, 0), (5, 2), (10, 10), (0, 10)], False),
    "one point": ([(4, 4)] * 5, False),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turned", [False, True])
def test_crossings(name, turned):
    points, expected = SHAPES[name]
    table = np.array(points, dtype=np.float64)[:, :: -1 if turned else 1]
    square = np.array(SQUARE, dtype=np.float64).reshape(-1, 2)
    # Between others, shifted, from another point on, the other way round.
    for shift in range(len(table)):
        one = np.roll(table, shift, axis=0)[:: -1 if shift % 2 else 1] + 7
        ends = np.cumsum([4, len(one), 4])
        found = crossings(np.concatenate([square, one, square]), ends)
        assert found.tolist() == [False, expected, False]


coordinates = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=8)


def slow_crossing(points: list[tuple[int, int]]) -> bool:
    """Every pair of edges, one after the other."""
    edges = list(zip(points, points[1:] + points[:1]))

    def distance(line, point) -> float:
        (x1, y1), (x2, y2) = line
        length = np.hypot(x2 - x1, y2 - y1)
        across = (x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)
        return across / length if length else 0.0

    def beyond(line, other) -> bool:
        a, b = sorted(distance(line, point) for point in other)
        return a < -module.CROSSING and b > module.CROSSING

    return any(beyond(a, b) and beyond(b, a) for a in edges for b in edges)


@given(st.lists(coordinates, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_crossings_and_areas_are_those_of_a_slow_loop(shapes):
    points = np.array([x for shape in shapes for x in shape], dtype=np.float64)
    ends = np.cumsum([len(shape) for shape in shapes])
    assert crossings(points, ends).tolist() == [slow_crossing(shape) for shape in shapes]
    areas = [sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(x, x[1:] + x[:1])) / 2 for x in shapes]
    np.testing.assert_allclose(signed_areas(points, ends), areas, atol=1e-9)
    assert has_area(points, ends).tolist() == [area != 0 for area in areas]


def test_polygons_are_looked_at_in_groups(monkeypatch):
    """Whatever the groups are, the same is found, at the right polygons."""
    shapes = [SQUARE, [10, 10, 30, 30, 30, 10, 10, 30], [10, 10, 30, 30, 20, 20], SQUARE]
    found = []
    for chunk in (1, 9, module.CHUNK):
        monkeypatch.setattr(module, "CHUNK", chunk)
        found.append([(x.kind, x.index) for x in check(data_set(shapes)).findings])
    assert found[0] == found[1] == found[2]
    assert found[0] == [("polygon_empty", 2), ("polygon_crosses_itself", 1)]


# ---- Run lengths

masks = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 20))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_run_lengths_are_those_of_coco(drawn):
    height, width, seed, level = drawn
    random = np.random.default_rng(seed)
    # Rectangles and noise: short runs and long ones.
    mask = np.kron(random.random((height, width)) * 20 < level, np.ones((3, 7))) > 0
    shape = run_lengths(mask)
    lengths, height, _ = read_runs(shape)
    columns = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)
    assert (columns == mask.T.ravel()).all()
    box = bounds_of_runs(lengths, height)
    if not mask.any():
        assert box is None
        return
    x, y, w, h = coco_mask.toBbox({"size": shape["size"], "counts": shape["counts"].encode()})
    rows, places = np.nonzero(mask)
    assert box is not None
    np.testing.assert_array_equal(box, [places.min(), rows.min(), places.max() + 1, rows.max() + 1])
    # COCO's own box of a run over several columns is as high as the image too.
    np.testing.assert_allclose([x, y, x + w, y + h], box)


@given(
    st.text([chr(x) for x in (0, 40, *range(48, 112), 200)], max_size=30)
    | st.lists(st.integers(0, 2**32 - 1), max_size=9)
)
@settings(max_examples=50, deadline=None)
def test_no_run_lengths_stop_the_doctor(counts):
    source = check(data_set({"size": [48, 64], "counts": counts}))
    assert len(kinds(source)) <= 1
    fixed, _ = repair(source)
    assert kinds(check(fixed)) == [] or kinds(source) == ["mask_far_from_box"]


# ---- Keypoints

# What the category and the object have, the kind that is found, words of its message, what the
# repair leaves of points and their number.
OBJECTS = [
    (POINTS[:-1], 2, "keypoints_malformed", "'keypoints' is of 8 numbers", None, None),
    (POINTS[:6], 2, "keypoints_malformed", "6 numbers, expected 9 for the 3 points", None, None),
    ("nose", 2, "keypoints_malformed", "'keypoints' is 'nose'", None, None),
    ([*POINTS[:-1], None], 2, "keypoints_malformed", "expected finite numbers", None, None),
    ([float("inf"), *POINTS[1:]], 2, "keypoints_malformed", "finite numbers", None, None),
    (
        [20, 12, 3, 15, 20, 1, 0, 0, -1],
        2,
        "keypoint_visibility",
        "point 'nose' has the visibility 3 (2 such points), expected 0 (not",
        [20, 12, 2, 15, 20, 1, 0, 0, 0],
        2,
    ),
    (
        [20, 12, 2, 65, 20, 1, 70, 99, 0],
        2,
        "keypoint_outside",
        "point 'left_eye' at (65, 20) is outside",
        [20, 12, 2, 0, 0, 0, 70, 99, 0],
        1,
    ),
    (
        [20, 12, 2, 33, 20, 1, 0, 0, 0],
        2,
        "keypoint_outside_box",
        "point 'left_eye' at (33, 20) is outside of the box",
        [20, 12, 2, 33, 20, 1, 0, 0, 0],
        2,
    ),
    (POINTS, 3, "num_keypoints_differs", "is 3, expected 2 labelled points", POINTS, 2),
    (POINTS, None, "num_keypoints_differs", "is missing, expected 2", POINTS, 2),
    (POINTS, "2", "num_keypoints_differs", "is '2', expected 2", POINTS, 2),
    ([], 2, "num_keypoints_differs", "is 2, expected 0", [], 0),
]


@pytest.mark.parametrize("points, count, kind, words, left, number", OBJECTS)
def test_keypoints(points, count, kind, words, left, number):
    more = {} if count is None else {"num_keypoints": count}
    data = data_set(category={"keypoints": NAMES}, keypoints=points, **more)
    source = check(data)
    (finding,) = source.findings
    assert finding.kind == kind and words in finding.message
    assert finding.place == 0 and finding.severity != "error"
    assert KINDS[kind].stops == (kind in ("keypoints_malformed", "keypoint_visibility"))
    assert check(data, "keypoints").findings[0].stops == KINDS[kind].stops
    fixed, changes = repair(source)
    entry = fixed["annotations"][0]
    assert (entry.get("keypoints"), entry.get("num_keypoints")) == (left, number)
    assert bool(changes) == bool(KINDS[kind].repair)
    if changes:
        assert kinds(check(fixed)) == []


def test_points_within_a_pixel_of_the_border_and_near_the_box_are_right():
    edge = [64, 48, 2, -1, -1, 2, 0, 0, 0]  # the last pixel is 63, 47
    data = data_set(
        box=[0, 0, 64, 48], category={"keypoints": NAMES}, keypoints=edge, num_keypoints=2
    )
    assert [x for x in kinds(check(data)) if "keypoint" in x] == []
    data = data_set(category={"keypoints": NAMES}, keypoints=[32, 8, 2] + [0] * 6, num_keypoints=1)
    assert kinds(check(data)) == []  # two pixels, a tenth of 20


def test_several_faults_of_one_objects_points_are_mended_together():
    points = [20, 12, 7, 99, 20, 2, 15, 20, 2]
    data = data_set(category={"keypoints": NAMES}, keypoints=points, num_keypoints=1)
    source = check(data)
    assert kinds(source) == ["keypoint_outside", "keypoint_visibility", "num_keypoints_differs"]
    fixed, changes = repair(source)
    entry = fixed["annotations"][0]
    assert entry["keypoints"] == [20, 12, 2, 0, 0, 0, 15, 20, 2] and entry["num_keypoints"] == 2
    assert len(changes) == 1 and kinds(check(fixed)) == []


# A category's keys, the kind, words of the message, and the keys that the repair changes.
CATEGORIES = [
    ({"keypoints": ["a", "a", "b"]}, "keypoint_names_malformed", "has 'a' twice", {}),
    ({"keypoints": "abc"}, "keypoint_names_malformed", "expected a list of names", {}),
    ({"keypoints": [1, 2, 3]}, "keypoint_names_malformed", "expected a list of names", {}),
    (
        {"keypoints": NAMES, "skeleton": [[1, 2], [0, 1], [1, 4]]},
        "skeleton_malformed",
        "has [0, 1], expected two numbers of points, 1 to 3 (2 such pairs)",
        {"skeleton": [[1, 2]]},
    ),
    (
        {"keypoints": NAMES, "skeleton": 5},
        "skeleton_malformed",
        "'skeleton' is 5, expected pairs",
        {"skeleton": []},
    ),
    (
        {"keypoints": NAMES, "flip_pairs": [["left_eye", "nase"]]},
        "flip_pairs_malformed",
        "has ['left_eye', 'nase'], expected two names of 'keypoints'",
        {},
    ),
    (
        {"keypoints": NAMES, "flip_pairs": [["nose", "nose"]]},
        "flip_pairs_malformed",
        "has 'nose' twice",
        {},
    ),
    ({"keypoints": NAMES, "flip_pairs": 3}, "flip_pairs_malformed", "expected pairs of names", {}),
]


@pytest.mark.parametrize("category, kind, words, changed", CATEGORIES)
def test_categories_of_points(category, kind, words, changed):
    data = data_set(category=category, keypoints=POINTS, num_keypoints=2)
    (finding,) = check(data).findings
    assert finding.kind == kind and words in finding.message
    assert (finding.section, finding.severity, finding.category_id) == ("categories", "warning", 1)
    assert check(data, "keypoints").findings[0].severity == "error"
    fixed, _ = repair(check(data))
    assert fixed["categories"] == [{"id": 1, "name": "cat", **category, **changed}]
    assert kinds(check(fixed)) == ([] if changed else [kind])


def test_categories_have_the_same_points():
    data = data_set(category={"keypoints": NAMES}, keypoints=POINTS, num_keypoints=2)
    data["categories"].append({"id": 2, "name": "dog", "keypoints": NAMES[:2]})
    data["annotations"].append(
        {**data["annotations"][0], "id": 2, "category_id": 2, "bbox": [12, 12, 20, 20]}
        | {"keypoints": POINTS[:6]}
    )
    (finding,) = check(data).findings
    assert finding.kind == "keypoint_names_differ" and finding.place == 1
    assert finding.message.startswith("'dog' has the points ['nose', 'left_eye'], 'cat' ['nose',")
    # Of a category without points none are expected.
    del data["categories"][1]["keypoints"], data["annotations"][1]["keypoints"]
    data["annotations"][1]["num_keypoints"] = 0
    assert kinds(check(data, "keypoints")) == []
    data["annotations"][1] |= {"keypoints": POINTS[:6], "num_keypoints": 2}
    (finding,) = check(data, "keypoints").findings
    assert (finding.kind, finding.severity) == ("keypoints_without_names", "warning")
    assert finding.message == "has 2 points, but 'dog' names none"
    data["annotations"][1] |= {"keypoints": [0] * 9, "num_keypoints": 0}
    assert kinds(check(data, "keypoints")) == []


def test_files_have_the_same_points():
    sets = [
        data_set(category={"keypoints": names}, keypoints=POINTS, num_keypoints=2)
        for names in (NAMES, NAMES[::-1])
    ]
    sources = [Source(x, Path(f"{x}.json"), Path("."), y) for x, y in zip(("train", "val"), sets)]
    check_sources(sources, read_images=False)
    (finding,) = sources[1].findings
    assert finding.kind == "keypoint_names_differ" and "those of 'train'" in finding.message


def test_points_that_are_missing_matter_where_they_are_needed():
    data = data_set(category={"keypoints": NAMES}, keypoints=[0] * 9, num_keypoints=0)
    assert kinds(check(data)) == []
    (finding,) = check(data, "keypoints").findings
    assert (finding.kind, finding.severity) == ("no_keypoints", "error")
    data = data_set(keypoints=POINTS, num_keypoints=2)
    assert kinds(check(data)) == ["keypoints_without_names"]
    assert kinds(check(data, "keypoints")) == ["keypoints_without_names", "no_keypoints"]


# ---- Before training, and pictures


@pytest.fixture
def folder(tmp_path) -> Path:
    Image.new("RGB", (64, 48), (90, 130, 110)).save(tmp_path / "a.png")
    return tmp_path


def quick(folder: Path, data: dict, *needed: str) -> list:
    path = folder / "set.json"
    path.write_text(json.dumps(data))
    return quick_check("set", str(path), str(folder), train=True, needed=frozenset(needed))


def test_training_stops_only_at_what_its_tasks_need(folder):
    data = data_set(
        {"size": [48, 64], "counts": [1, 2]}, category={"keypoints": NAMES}, keypoints=[1, 2]
    )
    assert quick(folder, data) == []  # not even looked at
    with pytest.raises(ValueError, match=r"annotation 1, image 1.*have 3 pixels.*--fix cleaned"):
        quick(folder, data, "polygons")
    with pytest.raises(ValueError, match=r"annotation 1, image 1.*'keypoints' is of 2 numbers"):
        quick(folder, data, "keypoints")
    with pytest.raises(ValueError, match="no object has a mask"):
        quick(folder, data_set(), "polygons")
    crossing = data_set([[10, 10, 30, 30, 30, 10, 10, 30]])
    assert [x.kind for x in quick(folder, crossing, "polygons")] == ["polygon_crosses_itself"]


def picture(folder: Path, data: dict, monkeypatch) -> np.ndarray:
    """The part with the image, drawn 7.5 times as large."""
    source = Source("train", folder / "train.json", folder, data)
    check_sources([source])
    written = []
    monkeypatch.setattr(drawing, "write_image", lambda path, image: written.append(image))
    draw_findings([source], folder / "drawn", count=1)
    return written[0][-360:]


def coloured(image: np.ndarray, x: float, y: float) -> bool:
    """Whether something is drawn at a point of the image."""
    column, row = round(x * 7.5), round(y * 7.5)
    part = image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].astype(int)
    return bool((np.abs(part - (90, 130, 110)).max(axis=2) > 40).any())


def test_outlines_and_points_are_drawn(folder, monkeypatch):
    shape = [[10, 10, 30, 30, 30, 10, 10, 30]]
    image = picture(folder, data_set(shape), monkeypatch)
    assert coloured(image, 20, 20) and coloured(image, 25, 25)  # the edges that cross
    assert not coloured(image, 20, 26)
    far = data_set(run_lengths(square_mask()), box=[40, 30, 10, 10])
    image = picture(folder, far, monkeypatch)
    assert coloured(image, 10, 26) and not coloured(image, 20, 27)
    data = data_set(category={"keypoints": NAMES}, keypoints=[20, 20, 2, 15, 22, 7] + [0] * 3)
    image = picture(folder, data, monkeypatch)
    assert coloured(image, 20.5, 20.5)
    # A ring around the point that has another visibility.
    assert coloured(image, 15.5 + 7 / 7.5, 22.5) and not coloured(image, 20.5 + 8 / 7.5, 20.5)
