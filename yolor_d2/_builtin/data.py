"""Loaders, and the resize of the test pipeline."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, Sampler

from .catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


# ---- Loaders


class DatasetFromList(Dataset):
    """A list that worker processes share, as its items are held in one array of bytes.

    Args:
        lst: anything that can be pickled.
        copy: without meaning here; every access makes a new copy.
    """

    def __init__(self, lst: Sequence, copy: bool = True):
        pickled = [np.frombuffer(pickle.dumps(item, -1), dtype=np.uint8) for item in lst]
        self.ends = np.cumsum([len(item) for item in pickled], dtype=np.int64)
        self.data = np.concatenate(pickled) if pickled else np.zeros(0, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Any:
        start = self.ends[index - 1] if index % len(self) else 0
        return pickle.loads(memoryview(self.data[start : self.ends[index]]))

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))


class MappedDataset(Dataset):
    """A data set whose items go through a function."""

    def __init__(self, dataset: Dataset, mapper: Callable[[Any], Any]):
        self.dataset = dataset
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        return self.mapper(self.dataset[key])


def keep_list(batch: list) -> list:
    """Samples of different sizes are not stacked."""
    return batch


def prepare(dataset: Sequence | Dataset, mapper: Callable | None) -> Dataset:
    """A map-style data set over mapped items."""
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MappedDataset(dataset, mapper)


def build_detection_train_loader(
    dataset: Sequence | Dataset,
    *,
    mapper: Callable | None,
    sampler: Sampler,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
) -> DataLoader:
    """Batches in the order of the sampler, whatever the number of workers.

    Args:
        dataset: a list of dicts, or a map-style data set over what the sampler yields.
        mapper: applied to every item; None keeps it.
        sampler: endless.
        total_batch_size: samples per batch.
        aspect_ratio_grouping: must be False.
        num_workers: worker processes; 0 loads in this one.
    """
    if aspect_ratio_grouping:
        raise NotImplementedError(
            "DATALOADER.ASPECT_RATIO_GROUPING is not part of the built-in runtime"
        )
    return DataLoader(
        prepare(dataset, mapper),
        sampler=sampler,
        batch_size=total_batch_size,
        drop_last=True,
        num_workers=num_workers,
        collate_fn=keep_list,
    )


def build_detection_test_loader(
    dataset: Sequence | Dataset, *, mapper: Callable, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Batches of all images in their order; see `build_detection_train_loader`."""
    return DataLoader(
        prepare(dataset, mapper),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=keep_list,
    )


def get_detection_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True
) -> list[dict]:
    """Load data sets by name, one after the other.

    Args:
        names: registered names.
        filter_empty: leave out images without any object that is not a crowd.

    Raises:
        AssertionError: when there is nothing, or when the classes of the data sets differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise AssertionError("no data set is named")
    items = []
    for name in names:
        loaded = DatasetCatalog.get(name)
        if not loaded:
            raise AssertionError(f"data set {name!r} is empty")
        items += loaded
    annotated = "annotations" in items[0]
    if filter_empty and annotated:
        count = len(items)
        items = [x for x in items if any(not a.get("iscrowd", 0) for a in x["annotations"])]
        logger.info("%d of %d images have no usable annotation", count - len(items), count)
    if not items:
        raise AssertionError(f"data sets {names} have no image with a usable annotation")
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if any(x != classes[0] for x in classes):
        raise AssertionError(f"data sets {names} have different classes: {classes}")
    if annotated and classes[0]:
        log_counts(items, classes[0])
    return items


def log_counts(items: Sequence[dict], classes: Sequence[str]) -> None:
    """Write how many objects of each class there are, crowds left out."""
    labels = [a["category_id"] for x in items for a in x["annotations"] if not a.get("iscrowd", 0)]
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(classes))
    rows = [*zip(classes, counts.tolist()), ("total", len(labels))]
    table = tabulate(rows, ["category", "#instances"], tablefmt="pipe")
    logger.info("Instances of %d categories:\n%s", len(classes), table)


# ---- Resize


class ResizeTransform:
    """Resize from (h, w) to (new_h, new_w), bilinear and antialiased, as PIL does it."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int):
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize (h, w, 3) uint8.

        Raises:
            NotImplementedError: when the image is of another kind.
        """
        if image.dtype != np.uint8 or image.shape != (self.h, self.w, 3):
            raise NotImplementedError(
                f"the built-in runtime resizes {(self.h, self.w, 3)} uint8 images, got "
                f"{image.shape} {image.dtype}"
            )
        size = (self.new_w, self.new_h)
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


class ResizeShortestEdge:
    """Scale the shorter side to a length, the longer one to at most another.

    Args:
        short_edge_length: least and greatest length of the shorter side in pixels; one between
            them is drawn from numpy's global generator.
        max_size: greatest length of the longer side.
    """

    def __init__(self, short_edge_length: Sequence[int], max_size: int):
        self.short_edge_length = short_edge_length
        self.max_size = max_size

    def get_transform(self, image: np.ndarray) -> ResizeTransform:
        low, high = self.short_edge_length
        size = np.random.randint(low, high + 1)
        return ResizeTransform(*image.shape[:2], *self.output_size(*image.shape[:2], size))

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        """(H, W) of the result, rounded to the nearest pixel."""
        scale = size / min(height, width)
        sides = [size, scale * width] if height < width else [scale * height, size]
        if max(sides) > self.max_size:
            reduce = self.max_size / max(sides)
            sides = [side * reduce for side in sides]
        return int(sides[0] + 0.5), int(sides[1] + 0.5)
