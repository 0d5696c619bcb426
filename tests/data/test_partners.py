"""Partners of mosaics: shared by a block of positions, yet for each as if drawn for it alone.

Whether two ways to draw samples have the same distribution is decided by permutation tests: the
samples of both are mixed, and the difference between them has to be as large as between random
halves. Samples of one block are related, so these tests take one from each block.
"""

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.augmentation.image import Sample
from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.data.partners import POOL_BLOCK, PartnerPool, pool_entries
from yolor_d2.data.sampler import PositionSampler, epoch_order
from yolor_d2.datasets.ground_truth import GroundTruth

NUM_IMAGES = 10
SIZE = 32
# A p-value below this means another distribution; with 199 permutations the least is 0.005.
LEAST_P = 0.01


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> GroundTruth:
    """Images of different brightness and shape; the first has no box, the others ever more."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for index in range(NUM_IMAGES):
        height, width = [(24, 32), (32, 24), (32, 32)][index % 3]
        path = folder / f"{index}.png"
        Image.fromarray(np.full((height, width, 3), 25 * index, np.uint8)).save(path)
        boxes = [
            {
                "bbox": [2 + i, 3, 8 + index, 12 - index // 2],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": index,
            }
            for i in range(index)
        ]
        size = {"height": height, "width": width}
        made.append({**size, "file_name": str(path), "image_id": index, "annotations": boxes})
    return GroundTruth.from_items(made)


# ---- the pool


@pytest.mark.parametrize(
    "mosaic9, mixup, most, count", [(0, 0, 3, 8), (0, 0.1, 7, 8), (0.5, 0, 8, 8), (1, 1, 17, 17)]
)
def test_a_pool_has_what_one_sample_may_need(truth, mosaic9, mixup, most, count):
    augment = AugmentConfig(mosaic9=mosaic9, mixup=mixup)
    assert augment.most_partners == most
    dataset = TrainingDataset(truth, size=SIZE, seed=0, augment=augment)
    dataset[0, 0]
    assert len(dataset.pool.entries) == count


def test_entries_are_those_of_numpy():
    """Written down: a change of the pools would break the resuming of older runs."""
    expected = np.random.default_rng([5, 7, 3]).integers(100, size=8)  # seed, block, stream
    np.testing.assert_array_equal(pool_entries(5, 7, 8, 100), expected)
    assert pool_entries(0, 0, 8, 1000).tolist() == [725, 764, 948, 442, 342, 409, 833, 966]


def test_blocks_are_aligned():
    pool = PartnerPool(seed=0, num_images=1000, most_partners=3)
    found = []
    for position in range(3 * POOL_BLOCK):
        pool.enter(position)
        found.append(tuple(pool.entries))
    assert len(set(found)) == 3
    assert [len(list(group)) for _, group in itertools.groupby(found)] == [POOL_BLOCK] * 3


def test_partners_are_distinct_entries():
    """Of many images entries are distinct too; the partners are all of them in random order."""
    pool = PartnerPool(seed=0, num_images=10**6, most_partners=17)
    pool.enter(0)
    orders = [tuple(pool.partners(np.random.default_rng(i))) for i in range(20)]
    assert len(set(orders)) == 20
    assert {tuple(sorted(x)) for x in orders} == {tuple(sorted(pool.entries.tolist()))}
    assert len(set(orders[0])) == 17


# ---- pixels


def count_reads(dataset, monkeypatch) -> list[str]:
    """The files that the data set reads from now on."""
    read, original = [], dataset.read_file
    monkeypatch.setattr(dataset, "read_file", lambda path: read.append(path) or original(path))
    return read


@pytest.mark.parametrize("mosaic9, mixup", [(0, 0), (1, 1)])
def test_an_image_of_the_pool_is_read_once_a_block(truth, monkeypatch, mosaic9, mixup):
    augment = AugmentConfig(mosaic9=mosaic9, mixup=mixup)
    dataset = TrainingDataset(truth, size=SIZE, seed=0, augment=augment)
    read = count_reads(dataset, monkeypatch)
    for block in range(5):
        read.clear()
        for place in range(POOL_BLOCK):
            dataset[block * POOL_BLOCK + place, place]
            assert set(dataset.pool.pixels) <= set(dataset.pool.entries.tolist())
        pool = {dataset.file_name(i) for i in dataset.pool.entries}
        assert len(dataset.pool.pixels) == len(pool & set(read)) > 0
        for path in pool:
            assert read.count(path) <= 1
    # A sample of another block, even if it is no mosaic, lets go of all.
    dataset.augment = AugmentConfig(mosaic=0)
    dataset[5 * POOL_BLOCK, 0]
    assert set(dataset.pool.pixels) <= {0}


def test_images_that_are_not_seen_are_not_read(truth, monkeypatch):
    dataset = TrainingDataset(truth, size=SIZE, seed=0, augment=AugmentConfig(mosaic9=1.0))
    read = count_reads(dataset, monkeypatch)
    counts = []
    for block in range(20):
        read.clear()
        dataset[block * POOL_BLOCK, 0]
        counts.append(len(set(read)) / len({0, *dataset.pool.entries.tolist()}))
    assert 0.3 < np.mean(counts) < 0.9


# ---- a sample is that of its position


def same(first: dict, second: dict) -> bool:
    one, other = first["instances"], second["instances"]
    return (
        torch.equal(first["image"], second["image"])
        and torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)
        and torch.equal(one.gt_classes, other.gt_classes)
    )


def test_the_order_of_access_does_not_matter(truth):
    augment = AugmentConfig(mosaic=0.8, mosaic9=0.5, mixup=0.5)
    keys = list(itertools.islice(PositionSampler(NUM_IMAGES, seed=4), 40))
    dataset = TrainingDataset(truth, size=SIZE, seed=4, augment=augment)
    expected = {key: dataset[key] for key in keys}
    shuffled = random.Random(0).sample(keys, len(keys))
    assert all(same(dataset[key], expected[key]) for key in shuffled)
    for key in keys[::3]:  # a run that begins anywhere, also inside a block
        fresh = TrainingDataset(truth, size=SIZE, seed=4, augment=augment)
        assert same(fresh[key], expected[key])


@pytest.mark.parametrize("world_size, batch_size", [(1, 3), (2, 4), (2, 16), (3, 6), (4, 32)])
def test_the_number_of_processes_does_not_matter(truth, world_size, batch_size):
    alone = TrainingDataset(truth, size=SIZE, seed=0)
    count = 0
    for rank in range(world_size):
        sampler = PositionSampler(
            NUM_IMAGES, seed=0, rank=rank, world_size=world_size, batch_size=batch_size
        )
        process = TrainingDataset(truth, size=SIZE, seed=0)
        for key in itertools.islice(sampler, 3 * batch_size // world_size):
            assert same(process[key], alone[key])
            count += 1
    assert count == 3 * batch_size


# ---- distribution


class Independent(PartnerPool):
    """What the pool stands for: partners that are drawn for each sample alone."""

    def partners(self, rng):
        return iter(rng.integers(self.num_images, size=self.count).tolist())


def indices_of_block(seed: int, position: int) -> list[int]:
    """Images that the samples of a position's block are for."""
    first = position - position % POOL_BLOCK
    sampler = PositionSampler(NUM_IMAGES, seed=seed, start=first)
    return [index for _, index in itertools.islice(sampler, POOL_BLOCK)]


class Wrong(PartnerPool):
    """Knows the position of the sample."""

    def enter(self, position):
        super().enter(position)
        self.position = position


class FromTheBlock(Wrong):
    """Wrong: partners are the images that the block's samples are for."""

    def partners(self, rng):
        own = indices_of_block(self.seed, self.position)
        return iter(rng.permutation(np.resize(own, self.count)).tolist())


class WithoutThePrimary(Wrong):
    """Wrong: no image is its own partner."""

    def partners(self, rng):
        own = indices_of_block(self.seed, self.position)[self.position % POOL_BLOCK]
        others = rng.integers(self.num_images - 1, size=self.count)
        return iter((others + (others >= own)).tolist())


class DistinctImages(Wrong):
    """Wrong: the pool holds no image twice."""

    def partners(self, rng):
        rows = [rng.permutation(self.num_images) for _ in range(2)]
        return iter(np.concatenate(rows)[: self.count].tolist())


class Recorder(TrainingDataset):
    """Notes which images a sample is made of, and draws none."""

    def tile(self, index, left, top):
        self.used.append(index)
        return super().tile(index, left, top)

    def warp(self, tiles, canvas_size, frame, rng):
        return Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))


def one_of_each_block(seed: int, count: int):
    """(position, index) of one sample of each block, whose place in it varies."""
    for block in range(count):
        position = POOL_BLOCK * block + block % POOL_BLOCK
        epoch, place = divmod(position, NUM_IMAGES)
        yield position, int(epoch_order(seed, epoch, NUM_IMAGES)[place])


def put_pool(dataset: TrainingDataset, kind: type[PartnerPool]) -> TrainingDataset:
    dataset.pool = kind(
        seed=dataset.seed,
        num_images=len(dataset),
        most_partners=dataset.augment.most_partners,
    )
    return dataset


def images_used(truth, augment, kind, seeds, count) -> np.ndarray:
    """(N, images per sample) indices, the image that a sample is for first."""
    rows = []
    for seed in seeds:
        options = {"size": SIZE, "seed": seed, "augment": augment}
        dataset = put_pool(Recorder(truth, **options), kind)
        for key in one_of_each_block(seed, count):
            dataset.used = []
            dataset.compose(*key)
            rows.append(dataset.used)
    return np.array(rows)


def pair_features(used: np.ndarray) -> np.ndarray:
    """(N, pairs of places * pairs of images) whether a sample has that pair of images there."""
    pairs = [
        np.eye(NUM_IMAGES**2, dtype=np.float32)[used[:, i] * NUM_IMAGES + used[:, j]]
        for i, j in itertools.combinations(range(used.shape[1]), 2)
    ]
    return np.concatenate(pairs, axis=1)


def bin_features(values: np.ndarray, bins: int = 6) -> np.ndarray:
    """(N, columns * bins) in which part of its column's distribution a value lies."""
    edges = np.quantile(values, np.arange(1, bins) / bins, axis=0)
    places = (values[:, None] > edges).sum(axis=1)  # (N, columns)
    return np.eye(bins, dtype=np.float32)[places].reshape(len(values), -1)


def permutation_p(features: np.ndarray, permutations: int = 199) -> float:
    """Fraction of the ways to halve the rows that differ as much as the first half and the second.

    The difference is chi-square: over the features, squared difference of the counts over their
    sum.
    """
    rng = np.random.default_rng(0)
    sides = np.repeat([1, -1], len(features) // 2).astype(np.float32)
    rows = np.stack([sides, *(rng.permutation(sides) for _ in range(permutations))])
    total = features.sum(axis=0)
    differences = (rows @ features)[:, total > 0]
    statistics = (differences**2 / total[total > 0]).sum(axis=1)
    return float((statistics >= statistics[0] * (1 - 1e-5)).mean())


SETTINGS = {
    "four": (AugmentConfig(), 4, 500),
    "four, mixup": (AugmentConfig(mixup=1.0), 8, 400),
    "nine": (AugmentConfig(mosaic9=1.0), 9, 300),
    "nine, mixup": (AugmentConfig(mosaic9=1.0, mixup=1.0), 18, 200),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SETTINGS)
def test_partners_are_independent_and_uniform(truth, name):
    """All images of a sample, pair by pair, the one that it is for included."""
    augment, images, count = SETTINGS[name]
    found = images_used(truth, augment, PartnerPool, range(4), count)
    expected = images_used(truth, augment, Independent, range(4, 8), count)
    assert found.shape == expected.shape == (4 * count, images)
    assert permutation_p(pair_features(np.concatenate([found, expected]))) > LEAST_P


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [FromTheBlock, WithoutThePrimary, DistinctImages])
@pytest.mark.parametrize("name", ["four", "nine"])
def test_other_pools_would_be_noticed(truth, name, kind):
    augment, _, count = SETTINGS[name]
    wrong = images_used(truth, augment, kind, range(4), count)
    expected = images_used(truth, augment, Independent, range(4, 8), count)
    assert permutation_p(pair_features(np.concatenate([wrong, expected]))) < LEAST_P


class ThePrimaryAlone(Wrong):
    """Wrong: a mosaic is of one image."""

    def partners(self, rng):
        own = indices_of_block(self.seed, self.position)[self.position % POOL_BLOCK]
        return itertools.repeat(own)


def looks(truth, kind, seeds, count=150) -> np.ndarray:
    """(N, 6) of each sample: boxes, classes, mean width and height; mean and spread of pixels."""
    augment, rows = AugmentConfig(mosaic9=0.3, mixup=0.3), []
    for seed in seeds:
        dataset = put_pool(TrainingDataset(truth, size=SIZE, seed=seed, augment=augment), kind)
        for key in one_of_each_block(seed, count):
            sample = dataset.compose(*key)
            sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
            width, height = sides.mean(axis=0) if len(sides) else (0, 0)
            classes = len(set(sample.labels))
            pixels = sample.image.mean(), sample.image.std()
            rows.append([len(sides), classes, width, height, *pixels])
    return np.array(rows)


@pytest.mark.heavy
def test_samples_look_as_with_partners_of_their_own(truth):
    expected = looks(truth, Independent, range(4, 8))
    found = looks(truth, PartnerPool, range(4))
    assert permutation_p(bin_features(np.concatenate([found, expected]))) > LEAST_P
    wrong = looks(truth, ThePrimaryAlone, range(4))
    assert permutation_p(bin_features(np.concatenate([wrong, expected]))) < LEAST_P
