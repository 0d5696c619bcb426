"""Pasted objects: each part of the procedure by hand, and that they change only what they must."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.augmentation import paste_in as module
from yolor_d2.data.augmentation.image import Sample
from yolor_d2.data.augmentation.paste_in import (
    CutObject,
    Cutouts,
    collect,
    covered,
    fit,
    paste_in,
    random_place,
    seen_windows,
)
from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.data.loader import build_training_dataset
from yolor_d2.data.partners import PASTE_IMAGES, PartnerPool
from yolor_d2.datasets.annotations import NO_IDENTITY
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.structures.polygons import PolygonList

TRIANGLE = [10, 10, 50, 10, 10, 50]


def polygons_of(*shapes):
    listed = PolygonList()
    for shape in shapes:
        listed.add(shape)
    return listed.finish()


def cutouts_of(count, first=0) -> Cutouts:
    numbers = np.arange(first, first + count)
    return Cutouts(numbers, numbers, np.tile([10, 10, 50, 50], (count, 1)))


class Scripted:
    """A generator that answers from a list, and takes the middle of what it may when that ends."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def random(self):
        return self.answers.pop(0) if self.answers else 0.5

    def integers(self, low, high=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        value = self.answers.pop(0) if self.answers else (low + high) // 2
        assert low <= value < high + endpoint
        return value

    def permutation(self, values):
        return np.arange(values) if isinstance(values, int) else np.array(values)


# ---- what is collected


@pytest.mark.parametrize(
    ("given", "calls", "count"),
    [
        ([0], 1, 0),  # the first has none
        ([1], 1, 0),  # half of one is rounded to none
        ([40, 40], 2, 40),
        ([60], 1, 30),
        ([3, 0, 57], 3, 30),  # 1.5 and 28.5, rounded to even numbers
        ([2] * 40, 30, 30),
        ([2] + [0] * 40, 30, 1),  # it ends
    ],
)
def test_half_of_each_mosaic_until_there_are_enough(given, calls, count):
    mosaics = iter(given)
    asked = []

    def mosaic():
        asked.append(next(mosaics))
        return cutouts_of(asked[-1], 100 * len(asked))

    found = collect(mosaic, np.random.default_rng(0))
    assert (len(asked), len(found)) == (calls, count)
    assert len(set(found.rows.tolist())) == count


def test_what_a_canvas_shows_of_an_image():
    bounds = np.array([[1.5, 2, 6, 7.2], [np.nan] * 4, [30, 2, 39, 8], [0, 0, 40, 30]])
    seen, windows = seen_windows(bounds, np.array([30, 40]), np.array([-5, 10]), 32)
    # Columns 5 to 37 and rows 0 to 22 of the image are on the canvas.
    assert seen.tolist() == [True, False, True, True]
    assert windows.tolist() == [[5, 2, 6, 8], [30, 2, 37, 8], [5, 0, 37, 22]]
    seen, windows = seen_windows(bounds, np.array([30, 40]), np.array([50, 0]), 32)
    assert not seen.any() and windows.shape == (0, 4)


# ---- where


def test_places_by_hand():
    # Height 30 of 1 to 50, width 60 of 1 to 100, around (20, 90).
    assert random_place(Scripted(30, 60, 20, 90), 0.5, 100, 200) == (0, 75, 60, 100)
    assert random_place(Scripted(1, 1, 200, 0), 0.5, 100, 200) == (200, 0, 200, 1)
    assert random_place(Scripted(1, 1, 2, 3), 0.0625, 4, 4) == (2, 3, 3, 4)


def test_sides_of_places_fill_their_range():
    rng = np.random.default_rng(0)
    places = np.array([random_place(rng, 0.25, 160, 80) for _ in range(2000)])
    widths, heights = (places[:, 2:] - places[:, :2]).T
    assert (places >= 0).all() and (places[:, 2:] <= [80, 160]).all()
    assert (widths.max(), heights.max()) == (20, 40)
    inside = (places[:, 0] > 0) & (places[:, 2] < 80)
    assert np.bincount(widths[inside])[1:].min() > 30  # uniform: about 80 of each


def test_share_of_boxes_that_is_covered():
    boxes = np.array([[0.0, 0, 10, 10], [5, 5, 25, 25], [40, 40, 50, 50]])
    assert covered(boxes, (5, 5, 15, 15)).tolist() == [0.25, 0.25, 0]
    assert covered(np.zeros((0, 4)), (5, 5, 15, 15)).tolist() == []


# ---- one object


WINDOW = np.array([10, 10, 50, 50])


def test_an_object_is_scaled_to_fit():
    outline = polygons_of([TRIANGLE])
    mask, moved = fit(WINDOW, (100, 200, 130, 290), outline)
    assert mask.shape == (30, 30)  # 30 / 40 of it, by the shorter side
    assert moved.bounds().tolist() == [[0, 0, 30, 30]]
    assert mask.sum() == pytest.approx(450, rel=0.05) and mask[0, 0] and not mask[-1, -1]
    larger, _ = fit(WINDOW, (0, 0, 100, 80), outline)
    assert larger.shape == (80, 80)
    wide, _ = fit(np.array([10, 10, 50, 20]), (0, 0, 100, 100), outline)
    assert wide.shape == (25, 100)
    assert fit(WINDOW, (0, 0, 10, 80), outline) is None  # 10 pixels are too few


@pytest.mark.parametrize(("share", "fits"), [(20, False), (30, True)])
def test_an_object_needs_pixels(share, fits):
    """Of a thin one in a window of 40 x 40: 20 pixels are too few."""
    outline = polygons_of([[10, 10, 10 + share, 10, 10 + share, 11, 10, 11]])
    assert (fit(WINDOW, (0, 0, 40, 40), outline) is not None) is fits


def objects(image, label=3, identity=NO_IDENTITY, shape=TRIANGLE):
    return lambda *_: CutObject(label, identity, polygons_of([shape]), lambda: image)


@pytest.fixture
def white():
    return np.full((60, 60, 3), 255, np.uint8)


def black(height=100, width=100, boxes=()) -> Sample:
    labels = np.zeros(len(boxes), np.int64)
    return Sample(np.zeros((height, width, 3), np.uint8), np.array(boxes).reshape(-1, 4), labels)


def test_one_try_by_hand(white):
    sample = black()
    # Not left out; height 40, width 30 around (50, 50), hence at (35, 30); the first object.
    first = Scripted(0.5, 40, 30, 50, 50, 0, *[0.1] * 19)
    found = paste_in(sample, cutouts_of(1), objects(white, 3, 7), first)
    assert found.boxes.tolist() == [[35, 30, 65, 60]]
    assert (found.labels.tolist(), found.identities.tolist()) == ([3], [7])
    assert found.polygons is None and first.answers == []
    assert found.image[30, 35:62].min() == 255 and found.image[59, 38:].max() == 0
    rows, columns = np.nonzero(found.image[:, :, 0])
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (30, 35, 58, 63)
    assert sample.image.max() == 0 and len(sample.boxes) == 0  # it stays as it was


def test_polygons_come_with_what_is_pasted(white):
    sample = dataclasses.replace(black(boxes=[[0, 0, 5, 5]]), polygons=polygons_of(None))
    script = Scripted(0.5, 40, 30, 50, 50, 0, *[0.1] * 19)
    found = paste_in(sample, cutouts_of(1), objects(white), script)
    assert found.polygons.counts.tolist() == [0, 1]
    assert found.polygons.bounds()[1].tolist() == [35, 30, 65, 60]


@pytest.mark.parametrize(
    ("boxes", "place", "pasted"),
    [
        ([], (21, 21, 50, 50), True),
        ([], (20, 21, 50, 50), False),  # a side of 20
        ([], (40, 40, 99, 50), True),  # 21 columns are left at the border
        ([], (40, 40, 100, 50), False),
        ([[30, 30, 80, 80]], (20 + 6, 50, 50, 50), False),  # covers 1300 of 2500
        ([[30, 30, 130, 130]], (40, 50, 60, 60), True),  # 2000 of 10,000
        ([[0, 0, 9, 9], [55, 50, 65, 60]], (40, 50, 60, 60), False),  # all of the second
    ],
)
def test_where_nothing_is_pasted(white, boxes, place, pasted):
    script = Scripted(0.5, *place, *([0] if pasted else []), *[0.1] * 19)
    found = paste_in(black(boxes=boxes), cutouts_of(1), objects(white), script)
    assert len(found.boxes) == len(boxes) + pasted


def test_pasted_objects_count_as_present(white):
    """The second try is the place of the first."""
    place = (40, 30, 50, 50)
    script = Scripted(0.5, *place, 0, 0.5, *place, *[0.1] * 18)
    assert len(paste_in(black(), cutouts_of(1), objects(white), script).boxes) == 1


def test_nothing_to_paste_draws_nothing():
    sample = black()
    assert paste_in(sample, cutouts_of(0), lambda *_: 1 / 0, Scripted()) is sample


def test_channels_of_any_number():
    image = np.full((60, 60, 5), 200, np.uint8)
    sample = Sample(np.zeros((100, 100, 5), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    script = Scripted(0.5, 40, 30, 50, 50, 0, *[0.1] * 19)
    found = paste_in(sample, cutouts_of(1), objects(image), script)
    assert found.image[31, 36].tolist() == [200] * 5


def test_an_image_is_read_only_for_what_is_pasted(white):
    def never():
        raise AssertionError("read")

    thin = polygons_of([[10, 10, 30, 10, 30, 10.5, 10, 10.5]])
    rng = np.random.default_rng(0)
    found = paste_in(black(), cutouts_of(5), lambda *_: CutObject(0, 0, thin, never), rng)
    assert len(found.boxes) == 0


# ---- in the data set


@pytest.fixture
def truth(tmp_path):
    """Twelve images of one colour each with a triangle in another one, and one without."""
    items = []
    for i in range(13):
        pixels = np.full((60, 80, 3), 20, np.uint8)
        rows, columns = np.mgrid[:60, :80]
        inside = (columns >= 10) & (rows >= 10) & (rows + columns < 60)
        pixels[inside & (i < 12)] = (255, 10 * i, 10)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        box = {"bbox": [10, 10, 40, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i}
        entry = {**box, "segmentation": [TRIANGLE], "instance_id": 100 + i}
        item = {"file_name": str(path), "image_id": i, "height": 60, "width": 80}
        items.append({**item, "annotations": [entry] * (i < 12)})
    return GroundTruth.from_items(items, polygons=True)


CALM = AugmentConfig(mosaic9=0.3, mixup=0.2, hsv=(0, 0, 0))
PASTING = dataclasses.replace(CALM, paste_in=1.0)


def dataset_of(truth, augment, **options) -> TrainingDataset:
    return TrainingDataset(truth, size=128, seed=3, augment=augment, **options)


@pytest.mark.heavy
def test_all_but_what_is_pasted_stays(truth):
    """Pixels outside the new boxes, boxes and flips are those of a run without pasting."""
    plain, pasting = dataset_of(truth, CALM), dataset_of(truth, PASTING)
    rarely = dataset_of(truth, dataclasses.replace(CALM, paste_in=0.4))
    some, count = 0, 0
    for position in range(40):
        one, other = (x.compose(position, position % 13) for x in (plain, pasting))
        known = len(one.labels)
        assert other.boxes[:known].tolist() == one.boxes.tolist()
        assert other.labels[:known].tolist() == one.labels.tolist()
        changed = (one.image != other.image).any(axis=2)
        for label, who, box in zip(
            other.labels[known:], other.identities[known:], other.boxes[known:]
        ):
            x1, y1, x2, y2 = box.astype(int).tolist()
            changed[y1:y2, x1:x2] = False
            assert truth.identities[truth.labels == label].tolist() == [100 + who]
        assert not changed.any()
        count += len(other.labels) - known
        third = rarely.compose(position, position % 13)
        same = len(third.labels) == known
        some += not same
        assert (third.boxes.tolist() == one.boxes.tolist()) == same
    assert count > 60 and 5 < some < 30


def test_pasted_pixels_are_those_of_the_polygons(truth):
    augment = dataclasses.replace(PASTING, mosaic=0.0, scale=0.0, translate=0.0, flip=0.5)
    dataset = dataset_of(truth, augment, with_polygons=True)
    ious = []
    for position in range(20):
        sample = dataset.compose(position, 12)  # the image without an object
        assert len(sample.polygons) == len(sample.labels)
        red = sample.image[:, :, 0] > 137
        filled = np.zeros(red.shape, bool)
        for i in range(len(sample.labels)):
            filled |= sample.polygons.mask(i, *red.shape)
        ious.append((red & filled).sum() / max((red | filled).sum(), 1))
    assert np.mean(ious) > 0.95


def test_the_image_itself_and_its_partners_are_not_pasted_from(truth):
    """As entries of the pool; the same image may be in several of them."""
    dataset = dataset_of(truth, dataclasses.replace(PASTING, mosaic9=0.0, mixup=0.0))
    dataset.pool.enter(0)
    rng = np.random.default_rng(0)
    partners = dataset.pool.partners(rng)
    order = dataset.pool.entries[np.random.default_rng(0).permutation(8)].tolist()
    assert [next(partners) for _ in range(3)] == order[:3]
    chosen = dataset.pool.paste_images(partners).tolist()
    assert len(chosen) == PASTE_IMAGES and chosen[:5] == order[3:]
    reserve = dataset.pool.reserve.tolist()
    assert chosen[5:] == reserve[:3]
    # The reserve is the block's, and another one in the next.
    again = PartnerPool(seed=3, num_images=13, most_partners=3)
    again.enter(7)
    assert again.paste_images(iter(())).tolist() == reserve
    again.enter(8)
    assert again.paste_images(iter(())).tolist() != reserve


def test_images_of_a_block_are_decoded_once(truth, monkeypatch):
    dataset = dataset_of(truth, dataclasses.replace(PASTING, mosaic9=0.0, mixup=0.0))
    reads = []
    original = dataset.load_pixels
    monkeypatch.setattr(dataset, "load_pixels", lambda i: reads.append(i) or original(i))
    pasted = 0
    for position in range(8):
        pasted += len(dataset.compose(position, 12).labels)
    known = [*dataset.pool.entries, *dataset.pool.reserve]
    others = [i for i in reads if i != 12]
    assert set(others) <= set(known) and len(others) == len(set(others)) and pasted > 10


def test_polygons_must_have_been_read(truth):
    bare = dataclasses.replace(truth, polygons=None)
    with pytest.raises(ValueError, match=r"paste_in is 1\.0.*polygons=True"):
        dataset_of(bare, PASTING)
    with pytest.raises(ValueError, match=r"with_polygons True.*polygons=True"):
        dataset_of(bare, CALM, with_polygons=True)


def test_a_set_without_polygons_says_so(cfg, toy, caplog, tmp_path, monkeypatch):
    cfg.INPUT.AUGMENT.PASTE_IN = 0.5
    with caplog.at_level(logging.INFO, "yolor_d2"):
        dataset = build_training_dataset(cfg)
    assert "objects have polygons" in caplog.text
    assert "nothing is pasted" not in caplog.text
    assert dataset.augment.paste_in == 0.5 and dataset.outline_bounds is not None

    def empty(path, found):
        return polygons_of(*[None] * len(found.ids))

    monkeypatch.setattr("yolor_d2.datasets.catalog.read_polygons", empty)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "yolor_d2"):
        dataset = build_training_dataset(cfg)
    assert caplog.text.count("nothing is pasted") == 1 and "PASTE_IN is 0.5" in caplog.text
    plain = TrainingDataset(dataset.truth, size=64, seed=dataset.seed)
    dataset.augment = dataclasses.replace(plain.augment, paste_in=1.0)
    assert torch.equal(dataset[3, 1]["image"], plain[3, 1]["image"])


def test_shares_of_the_authors():
    assert sorted(set(module.PLACES)) == [0.0625, 0.125, 0.25, 0.5, 0.75]
    assert [module.PLACES.count(x) for x in (0.75, 0.5, 0.25, 0.125, 0.0625)] == [2, 4, 4, 4, 6]
