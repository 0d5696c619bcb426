"""Training samples: ground truth as it is read, and samples that depend on their position alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rectangles import assert_box_bounds_red

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.augmentation.image import FILL, resized_size
from yolor_d2.data.batch_shapes import BatchShapes
from yolor_d2.data.dataset import (
    AugmentConfig,
    TrainingDataset,
    check_image_size,
    happens,
)
from yolor_d2.data.sampler import RectangularOrder
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.files.images import ImageReadError
from yolor_d2.ops.padding import Padding

# No chance at all: every sample is its image, padded to a square.
PLAIN = AugmentConfig(mosaic=0, scale=0, translate=0, hsv=(0, 0, 0), flip=0)


def annotation(x, y, width, height, category=0, **more) -> dict:
    box = {"bbox": [x, y, width, height], "bbox_mode": BoxMode.XYWH_ABS}
    return {**box, "category_id": category, **more}


def item_of(width, height, *annotations) -> dict:
    return {"width": width, "height": height, "annotations": list(annotations)}


@pytest.fixture
def write_item(tmp_path):
    """Writes an image and returns its dataset dict."""

    def write(pixels: np.ndarray, *annotations: dict, name: str = "image.png") -> dict:
        Image.fromarray(pixels).save(tmp_path / name)
        height, width = pixels.shape[:2]
        item = item_of(width, height, *annotations)
        return {**item, "file_name": str(tmp_path / name), "image_id": name}

    return write


@pytest.fixture
def items(write_item) -> list[dict]:
    """Six images of noise, 40x30 pixels, with a box each but for the last."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(6)]
    return [
        write_item(image, *[annotation(4, 5, 20, 15, i)] * (i < 5), name=f"{i}.png")
        for i, image in enumerate(images)
    ]


def read_ground_truth(item: dict) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of one image."""
    truth = GroundTruth.from_items([{"file_name": "image.png", "image_id": 0, **item}])
    return truth.boxes, truth.labels


def dataset_of(items, size=32, seed=0, **options) -> TrainingDataset:
    return TrainingDataset(GroundTruth.from_items(items), size=size, seed=seed, **options)


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert torch.equal(first["image"], second["image"])
    for field in ("gt_boxes", "gt_classes"):
        one, other = (x["instances"].get(field) for x in (first, second))
        assert torch.equal(getattr(one, "tensor", one), getattr(other, "tensor", other))


# ---- ground truth


def test_ground_truth_by_hand():
    item = item_of(
        50,
        40,
        annotation(10, 10, 31, 25, 2),
        annotation(-5, -5, 10, 10, 1),  # cut at the corner
        annotation(45, 35, 10, 10, 0),
    )
    boxes, labels = read_ground_truth(item)
    assert boxes.tolist() == [[10, 10, 41, 35], [0, 0, 5, 5], [45, 35, 50, 40]]
    assert boxes.dtype == np.float64
    assert labels.tolist() == [2, 1, 0] and labels.dtype == np.int64


@pytest.mark.parametrize(
    "dropped",
    [
        annotation(1, 1, 5, 5, iscrowd=1),
        annotation(50, 10, 5, 5),  # begins where the image ends
        annotation(-10, 10, 10, 5),
        annotation(10, 100, 5, 5),
        annotation(10, 10, 0, 5),
        annotation(10, 10, 5, 0),
        annotation(10, 10, -3, 5),
        annotation(10, 10, 5, 1e-6),
        annotation(float("nan"), 10, 5, 5),
    ],
)
def test_annotations_that_are_not_trained_on(dropped):
    kept = annotation(1, 2, 3, 4, 7, iscrowd=0)
    boxes, labels = read_ground_truth(item_of(50, 40, dropped, kept))
    assert boxes.tolist() == [[1, 2, 4, 6]]
    assert labels.tolist() == [7]


def test_formats_of_boxes_may_be_mixed():
    corners = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    tiny = annotation(5, 5, 0.001, 0.001, 2)
    boxes, labels = read_ground_truth(item_of(50, 40, annotation(1, 2, 3, 4), corners, tiny))
    expected = [[1, 2, 4, 6], [1, 2, 3, 4], [5, 5, 5.001, 5.001]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-12)
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("item", [item_of(5, 5), {"width": 5, "height": 5}])
def test_no_annotations(item):
    boxes, labels = read_ground_truth(item)
    assert boxes.shape == (0, 4) and labels.shape == (0,)
    assert (boxes.dtype, labels.dtype) == (np.float64, np.int64)


def test_two_thousand_boxes():
    boxes, labels = read_ground_truth(
        item_of(50, 40, *[annotation(i % 40, i % 30, 5, 5, i) for i in range(2000)])
    )
    assert boxes.shape == (2000, 4)
    assert labels.tolist() == list(range(2000))


# ---- one sample


def test_integer_boxes_are_exact_after_resize(write_item):
    """x, y, width, height of (10, 10, 31, 31), 100 pixels to 153: 41 * 1.53 == 62.73."""
    item = write_item(np.zeros((100, 100, 3), np.uint8), annotation(10, 10, 31, 31))
    instances = dataset_of([item], size=153, augment=PLAIN)[0, 0]["instances"]
    expected = torch.tensor([[15.3, 15.3, 62.73, 62.73]])
    torch.testing.assert_close(instances.gt_boxes.tensor, expected)


def test_plain_sample_by_hand(write_item):
    # 4 wide, 2 high; in the middle of 4x4 with a row of grey above and below.
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2] = [255, 0, 0]
    item = write_item(pixels, annotation(0, 0, 4, 2, 3))
    batch = dataset_of([item], size=4, augment=PLAIN)[0, 0]
    red = [[114] * 4, [255, 255, 0, 0], [255, 255, 0, 0], [114] * 4]
    blue = [[114] * 4, [0] * 4, [0] * 4, [114] * 4]
    assert batch["image"].tolist() == [red, blue, blue]
    # 4x2 pixels: the lower side must exceed 2, so the box is dropped.
    assert len(batch["instances"]) == 0
    assert (batch["height"], batch["width"]) == batch["instances"].image_size == (4, 4)
    assert (batch["file_name"], batch["image_id"]) == (item["file_name"], item["image_id"])


def test_plain_samples_lie_where_inference_has_them(write_item):
    pixels = np.full((10, 40, 3), 200, np.uint8)
    item = write_item(pixels, annotation(10, 2, 20, 8))
    for place, top in (("centre", 15), ("reference", 15), ("corner", 0)):
        found = dataset_of([item], size=40, augment=PLAIN, padding=Padding(place))[0, 0]
        rows = (found["image"][0] == 200).all(dim=1).nonzero()[:, 0].tolist()
        assert rows == list(range(top, top + 10))
        expected = torch.tensor([[10.0, top + 2, 30, top + 10]])
        torch.testing.assert_close(found["instances"].gt_boxes.tensor, expected)


def test_channel_order(items):
    rgb, bgr = (dataset_of(items, channel_order=order)[3, 1] for order in ("RGB", "BGR"))
    assert torch.equal(rgb["image"].flip(0), bgr["image"])
    assert not torch.equal(rgb["image"], bgr["image"])
    assert torch.equal(rgb["instances"].gt_boxes.tensor, bgr["instances"].gt_boxes.tensor)


def test_unknown_channel_order_is_refused(items):
    with pytest.raises(ValueError, match="RGB"):
        dataset_of(items, channel_order="GRB")[0, 0]


def test_form_of_samples(items):
    dataset = dataset_of(items, size=48)
    classes = set()
    for position in range(40):
        sample = dataset[position, position % 6]
        assert sample["image"].shape == (3, 48, 48)
        assert sample["image"].dtype == torch.uint8
        assert sample["image"].is_contiguous()
        boxes = sample["instances"].gt_boxes.tensor
        assert boxes.dtype == torch.float32 and boxes.shape == (len(sample["instances"]), 4)
        assert (boxes >= 0).all() and (boxes <= 48).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert sample["instances"].gt_classes.dtype == torch.int64
        classes.update(sample["instances"].gt_classes.tolist())
    assert classes == {0, 1, 2, 3, 4}


def test_background_images_are_kept(items):
    dataset = dataset_of(items, augment=PLAIN)
    assert len(dataset) == 6
    sample = dataset[0, 5]
    assert len(sample["instances"]) == 0
    assert sample["instances"].gt_boxes.tensor.shape == (0, 4)
    assert sample["instances"].gt_classes.shape == (0,)


def test_the_middle_of_a_mosaic_is_seen(write_item):
    """Without chance in the affine map, squares that meet anywhere in the inner half fill it."""
    item = write_item(np.full((32, 32, 3), 255, np.uint8))
    augment = AugmentConfig(scale=0, translate=0, hsv=(0, 0, 0))
    dataset = dataset_of([item], augment=augment)
    assert all((dataset[position, 0]["image"] == 255).all() for position in range(10))


# ---- position


def test_samples_depend_on_position_and_index_alone(items):
    keys = [(position, position % 6) for position in range(8)]
    first, second = dataset_of(items), dataset_of(items)
    forwards = [first[key] for key in keys]
    np.random.seed(5)  # neither global generators nor earlier samples matter
    torch.manual_seed(5)
    backwards = [second[key] for key in reversed(keys)]
    for one, other in zip(forwards, reversed(backwards)):
        assert_same(one, other)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_positions_indices_and_seeds_make_a_difference(items, mosaic):
    augment = AugmentConfig(mosaic=mosaic)
    images = [
        dataset_of(items, seed=seed, augment=augment)[key]["image"].numpy().tobytes()
        for seed, key in [(0, (0, 0)), (0, (1, 0)), (0, (0, 1)), (1, (0, 0)), (0, (6, 0))]
    ]
    assert len(set(images)) == 5


def tiles_of(dataset, position, monkeypatch) -> list[int]:
    """The images of a sample, seen or not: one, four or nine for each mosaic."""
    used = []
    original = TrainingDataset.tile
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingDataset, "tile", lambda s, i, *x: used.append(i) or original(s, i, *x)
        )
        dataset[position, 2]
    assert used[0] == 2  # the requested image comes first
    return used


def is_mosaic(dataset, position, monkeypatch) -> bool:
    count = len(tiles_of(dataset, position, monkeypatch))
    assert count in (1, 4)
    return count == 4


@pytest.mark.parametrize("mosaic, low, high", [(0.0, 0, 0), (0.5, 8, 22), (1.0, 30, 30)])
def test_share_of_mosaics(items, monkeypatch, mosaic, low, high):
    dataset = dataset_of(items, augment=AugmentConfig(mosaic=mosaic))
    assert low <= sum(is_mosaic(dataset, i, monkeypatch) for i in range(30)) <= high


def test_mosaic_ends_at_a_position(items, monkeypatch):
    dataset = dataset_of(items, augment=AugmentConfig(first_plain_position=3))
    found = [is_mosaic(dataset, position, monkeypatch) for position in range(6)]
    assert found == [True] * 3 + [False] * 3


def test_the_end_of_mosaics_changes_no_earlier_sample(items):
    never, soon = (
        dataset_of(items, augment=AugmentConfig(first_plain_position=end)) for end in (None, 3)
    )
    for position in range(3):
        assert_same(never[position, 0], soon[position, 0])


@pytest.mark.parametrize(
    "mosaic9, mixup, counts",
    [
        (1.0, 0.0, {9}),
        (0.5, 0.0, {4, 9}),
        (0.0, 1.0, {8}),
        (1.0, 1.0, {18}),
        (0.5, 0.5, {4, 9, 8, 13, 18}),  # both parts of a mixup choose on their own
    ],
)
def test_mosaics_of_nine_and_mixup(items, monkeypatch, mosaic9, mixup, counts):
    augment = AugmentConfig(mosaic9=mosaic9, mixup=mixup)
    dataset = dataset_of(items, augment=augment)
    found = [len(tiles_of(dataset, i, monkeypatch)) for i in range(40)]
    assert set(found) == counts
    # No more mosaic, no mixup.
    plain = dataset_of(items, augment=dataclasses.replace(augment, first_plain_position=0))
    assert {len(tiles_of(plain, i, monkeypatch)) for i in range(5)} == {1}


def test_what_never_happens_takes_no_chance():
    """So that a new switch leaves the samples of runs without it as they were."""
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    assert not happens(rng, 0.0)
    assert rng.random() == other.random()
    assert all(happens(rng, 1.0) for _ in range(100))
    assert 20 < sum(happens(rng, 0.3) for _ in range(100)) < 40


@pytest.mark.parametrize("flip, expected", [(0.0, [0]), (1.0, [1]), (0.5, [0, 1])])
def test_share_of_flips(write_item, flip, expected):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255  # the left half is white, and the right one if flipped
    augment = AugmentConfig(mosaic=0, scale=0, translate=0, hsv=(0, 0, 0), flip=flip)
    dataset = dataset_of([write_item(pixels)], size=8, augment=augment)
    flipped = [int(dataset[position, 0]["image"][0, 0, 7] == 255) for position in range(20)]
    assert sorted(set(flipped)) == expected


@pytest.mark.parametrize("flip, expected", [(0.0, [0]), (1.0, [1]), (0.5, [0, 1])])
def test_share_of_vertical_flips(write_item, flip, expected):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the upper half is white, and the lower one if flipped
    augment = dataclasses.replace(PLAIN, flip_vertical=flip)
    dataset = dataset_of([write_item(pixels)], size=8, augment=augment)
    flipped = [int(dataset[position, 0]["image"][0, 7, 0] == 255) for position in range(20)]
    assert sorted(set(flipped)) == expected


# ---- boxes follow, through all of it


@st.composite
def augmentations(draw) -> AugmentConfig:
    """Without rotation and mixup, which leave no clear rectangle."""
    share = st.sampled_from([0.0, 1.0])
    return AugmentConfig(
        mosaic=draw(share),
        mosaic9=draw(share),
        scale=draw(st.sampled_from([0.0, 0.5, 0.9])),
        translate=draw(st.sampled_from([0.0, 0.1, 0.5])),
        hsv=draw(st.sampled_from([(0.0, 0.0, 0.0), (0.015, 0.2, 0.2)])),
        flip=draw(share),
        flip_vertical=draw(share),
    )


@pytest.mark.heavy
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    augmentations(),
    st.tuples(st.integers(30, 80), st.integers(30, 80)),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_boxes_bound_their_rectangles(tmp_path_factory, augment, image_size, multi_scale, rect, at):
    """The only red rectangle, in the requested image, and black images beside it."""
    height, width = image_size
    folder = tmp_path_factory.mktemp("red")
    items = []
    for name, red in [("red", True), ("black", False)]:
        pixels = np.zeros((height, width, 3), np.uint8)
        box = annotation(5, 7, width - 11, height - 12)
        if red:
            pixels[7 : height - 5, 5 : width - 6, 0] = 255
        path = folder / f"{name}.png"
        Image.fromarray(pixels).save(path)
        item = item_of(width, height, *[box] * red)
        items.append({**item, "file_name": str(path), "image_id": name})
    sizes = np.array([resized_size(height, width, 64)] * 2)
    order = RectangularOrder(sizes, batch_size=2, seed=0) if rect else None
    shapes = BatchShapes(64, batch_size=2, stride=16, multi_scale=multi_scale, order=order)
    augment = dataclasses.replace(augment, mosaic=0.0) if rect else augment
    dataset = dataset_of(items, size=64, augment=augment, shapes=shapes)
    frame = shapes.frame(at)
    original, used = dataset.tile, []
    dataset.tile = lambda index, *place: used.append(index) or original(index, *place)
    sample = dataset.compose(at, 0)
    assert sample.image.shape == (frame.height, frame.width, 3)
    # A mosaic may hold the red image several times, and show parts of it that are too small for a
    # box; then each box still is red all over.
    if len(sample.boxes) == 1 and used.count(0) == 1:
        assert_box_bounds_red(sample, tolerance=1)
    for x1, y1, x2, y2 in sample.boxes.round().astype(int):
        inner = sample.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].astype(int)
        assert (inner[..., 0] - inner[..., 1] > 100).all()


def test_mixup_shows_both_and_keeps_all_boxes(write_item):
    """Each mosaic is one colour; the result is a blend of both, with the boxes of both."""
    items = [
        write_item(
            np.full((32, 32, 3), value, np.uint8), annotation(8, 8, 16, 16, i), name=f"{i}.png"
        )
        for i, value in enumerate([0, 255])
    ]
    augment = dataclasses.replace(PLAIN, mosaic=1.0, mixup=1.0)
    dataset = dataset_of(items, augment=augment)
    alone = dataset_of(items, augment=dataclasses.replace(augment, mixup=0.0))
    blended = 0
    for position in range(30):
        both, first = dataset.compose(position, 0), alone.compose(position, 0)
        assert both.boxes[: len(first.boxes)].tolist() == first.boxes.tolist()
        assert len(both.boxes) == len(both.labels)
        blended += ((both.image > 20) & (both.image < 235) & (both.image != FILL)).any()
    assert blended > 10


def test_three_hundred_boxes_stay_three_hundred(write_item):
    boxes = [annotation(i % 20 * 3, i // 20 * 4, 3.5, 3.5, i) for i in range(300)]
    item = write_item(np.zeros((64, 64, 3), np.uint8), *boxes)
    assert len(dataset_of([item], size=64, augment=PLAIN)[0, 0]["instances"]) == 300


# ---- errors


def test_size_other_than_annotated_names_the_file(write_item):
    item = {**write_item(np.zeros((6, 8, 3), np.uint8), name="odd.png"), "height": 8, "width": 6}
    with pytest.raises(ValueError, match=r"odd\.png.*\(6, 8\).*\(8, 6\)"):
        dataset_of([item])[0, 0]


def test_size_may_be_missing():
    check_image_size({"file_name": "a.png"}, np.zeros((2, 3, 3)))
    check_image_size({"file_name": "a.png", "height": 2, "width": 3}, np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"a\.png"):
        check_image_size({"file_name": "a.png", "width": 4}, np.zeros((2, 3, 3)))


def test_broken_and_missing_images_are_named(items, tmp_path):
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"broken\.jpg"):
        dataset_of([{**items[0], "file_name": str(broken)}])[0, 0]
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        dataset_of([{**items[0], "file_name": str(missing)}])[0, 0]


@pytest.mark.parametrize("height, width", [(1, 1), (2, 1000), (1000, 2)])
def test_extreme_shapes(write_item, height, width):
    pixels = np.full((height, width, 3), 200, np.uint8)
    dataset = dataset_of([write_item(pixels, annotation(0, 0, width, height))])
    for position in range(4):
        assert dataset[position, 0]["image"].shape == (3, 32, 32)


@pytest.mark.real_data
def test_odd_annotations(real_data):
    """Boxes left of three files: ids 3, 7, 90 stand for themselves here."""
    for name, count in [("control", 6), ("zero_negative", 4), ("outside", 5)]:
        content = json.loads((real_data / "nasty" / f"ann_{name}.json").read_text())
        usable = 0
        for image in content["images"]:
            found = [x for x in content["annotations"] if x["image_id"] == image["id"]]
            boxes = [annotation(*x["bbox"], x["category_id"]) for x in found]
            kept, _ = read_ground_truth(item_of(image["width"], image["height"], *boxes))
            assert (kept >= 0).all() and (kept[:, 2] <= image["width"]).all()
            usable += len(kept)
        assert usable == count, name
