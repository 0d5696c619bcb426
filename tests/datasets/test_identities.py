"""Which individual an object is: from the file to the sample, whatever happens to the image."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import toy
from yolor_d2.d2.data import DatasetCatalog
from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.cache import MemoryCache
from yolor_d2.data.dataset import (
    AugmentConfig,
    TrainingDataset,
)
from yolor_d2.data.loader import build_training_dataset
from yolor_d2.data.training_data import TrainingData
from yolor_d2.datasets.annotations import NO_IDENTITY
from yolor_d2.datasets.catalog import register_coco_file
from yolor_d2.datasets.ground_truth import GroundTruth, number_identities
from yolor_d2.tasks import settle_tasks

TINY = {"num_train": 13, "num_val": 5, "image_size": (96, 128)}
ALL = AugmentConfig(
    mosaic=0.8,
    mosaic9=0.5,
    mixup=0.7,
    degrees=10,
    shear=5,
    flip=0.5,
    flip_vertical=0.5,
    hsv=(0,) * 3,
)


@pytest.fixture
def marked(tmp_path):
    """Six images of grey squares. A square's brightness tells who it is: 10 times the individual,
    one third of them without identity."""
    rng = np.random.default_rng(0)
    items = []
    for image_id in range(6):
        image = np.full((64, 64, 3), 114, np.uint8)
        annotations = []
        for place, (row, column) in enumerate(itertools.product(range(2), repeat=2)):
            individual = int(rng.integers(1, 9))
            x, y = 32 * column + 6, 32 * row + 6
            image[y : y + 20, x : x + 20] = 120 + 15 * individual
            given = {"bbox": [x, y, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": place}
            if place:
                given["instance_id"] = 1000 * individual
            annotations.append({**given, "who": individual})
        path = tmp_path / f"{image_id}.png"
        cv2.imwrite(str(path), image)
        items.append({"file_name": str(path), "image_id": image_id, "height": 64, "width": 64})
        items[-1]["annotations"] = annotations
    return items


def looks(sample):
    """Individual by brightness in the middle of each box that lies well inside the picture."""
    found = []
    for (x1, y1, x2, y2), label, identity in zip(sample.boxes, sample.labels, sample.identities):
        if min(x2 - x1, y2 - y1) < 8:
            continue
        value = sample.image[int((y1 + y2) / 2), int((x1 + x2) / 2), 0]
        found.append(((float(value) - 120) / 15, label, identity))
    return found


@pytest.mark.parametrize("cached", [False, True])
def test_identities_stay_with_their_objects(marked, cached):
    dataset = TrainingDataset(
        GroundTruth.from_items(marked),
        size=64,
        seed=0,
        augment=AugmentConfig(**{**ALL.__dict__, "mixup": 0.0}),
    )
    if cached:
        dataset.cache = MemoryCache(dataset.sizes)
    individuals = sorted({a["who"] for item in marked for a in item["annotations"][1:]})
    assert dataset.num_identities == len(individuals)
    checked = 0
    for position in range(60):
        sample = dataset.compose(position, position % 6)
        assert len(sample.identities) == len(sample.labels) == len(sample.boxes)
        for look, label, identity in looks(sample):
            if label == 0:
                assert identity == NO_IDENTITY
            elif look > 0.5:  # the box is not covered by another image of the mosaic
                assert individuals[identity] == pytest.approx(look, abs=0.4)
                checked += 1
    assert checked > 100


def test_mixup_keeps_those_of_both(marked):
    dataset = TrainingDataset(GroundTruth.from_items(marked), size=64, seed=0, augment=ALL)
    by_class = {(label, identity) for label, identity in zip(dataset.labels, dataset.identities)}
    samples = [dataset.compose(position, 0) for position in range(20)]
    pairs = [(k, i) for s in samples for k, i in zip(s.labels, s.identities)]
    assert set(pairs) <= by_class and len(pairs) > 50


def test_instances_carry_them_only_where_there_are_some(marked):
    given = TrainingDataset(GroundTruth.from_items(marked), size=64, seed=0)[0, 0]["instances"]
    assert given.gt_identities.dtype == torch.int64
    for item in marked:
        for annotation in item["annotations"]:
            annotation.pop("instance_id", None)
    assert not TrainingDataset(GroundTruth.from_items(marked), size=64, seed=0)[0, 0][
        "instances"
    ].has("gt_identities")


def test_numbers_are_places_among_the_known_ones():
    assert number_identities(np.array([70, -1, 5, 70, 6])).tolist() == [2, -1, 0, 2, 1]
    assert number_identities(np.array([-1, -1])).tolist() == [-1, -1]


@pytest.mark.parametrize("wrong", ["7", 1.5, True, -2, None, 2**63])
def test_what_is_no_identity_is_named_with_its_file(marked, wrong):
    marked[0]["annotations"][0]["instance_id"] = wrong
    with pytest.raises(ValueError, match=r"0\.png.*'instance_id'"):
        GroundTruth.from_items(marked)


# ---- The generated data set


@pytest.fixture(scope="module")
def individuals(tmp_path_factory):
    return toy.write_toy_dataset(tmp_path_factory.mktemp("individuals"), **TINY, identities=6)


def annotations_of(path):
    return json.loads(path.read_text())["annotations"]


def test_individuals_have_one_class_and_recur_in_both_splits(individuals):
    seen = {}
    for path in (individuals.train_json, individuals.val_json):
        given = annotations_of(path)
        for annotation in given:
            if annotation["iscrowd"]:
                assert "instance_id" not in annotation
                continue
            seen.setdefault(annotation["instance_id"], set()).add(annotation["category_id"])
        in_split = {a["instance_id"] for a in given if not a["iscrowd"]}
        assert in_split == set(range(6))
    assert all(len(categories) == 1 for categories in seen.values())


def test_two_individuals_never_look_the_same():
    cast = toy.make_individuals(0, 24)
    looks = {(*np.round(x.first), *np.round(x.second), x.bands, x.axis) for x in cast}
    assert len(looks) == 24
    assert [x.category.name for x in cast[:5]] == [
        "ring",
        "triangle",
        "cross",
        "striped_box",
        "ring",
    ]


def test_without_individuals_nothing_changes(tmp_path):
    data = toy.write_toy_dataset(tmp_path, **TINY)
    assert not any("instance_id" in a for a in annotations_of(data.train_json))
    assert "identities" not in json.loads(data.train_json.read_text())["info"]["parameters"]
    with pytest.raises(ValueError, match="identities"):
        toy.write_toy_dataset(tmp_path / "other", **TINY, identities=-1)


def test_the_key_comes_through_the_registered_data_set(individuals, tmp_path):
    name = str(tmp_path)
    register_coco_file(name, str(individuals.train_json), str(individuals.train_images))
    items = DatasetCatalog.get(name)
    found = {a["instance_id"] for item in items for a in item["annotations"]}
    assert found == set(range(6))


def test_identities_are_counted_for_the_model(individuals, toy_config, tmp_path):
    cfg = toy_config.clone()
    node = cfg.MODEL.YOLOR.TASKS.EMBEDDING
    settle_tasks(cfg, TrainingData(cfg))
    assert node.NUM_IDENTITIES == 0  # the task is off
    node.ENABLED = True
    with pytest.raises(ValueError, match="instance_id"):
        settle_tasks(cfg, TrainingData(cfg))
    register_coco_file(str(tmp_path), str(individuals.train_json), str(individuals.train_images))
    cfg.DATASETS.TRAIN = (str(tmp_path),)
    settle_tasks(cfg, TrainingData(cfg))
    assert node.NUM_IDENTITIES == 6
    assert build_training_dataset(cfg).num_identities == 6
    node.NUM_IDENTITIES = 5
    with pytest.raises(ValueError, match=r"NUM_IDENTITIES is 5, but .* 6 identities"):
        build_training_dataset(cfg)
