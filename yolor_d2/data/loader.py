"""Loaders and data sets from a configuration."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from ..d2.config import CfgNode
from ..d2.data import (
    DatasetCatalog,
    MetadataCatalog,
    ResizeShortestEdge,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    register_coco_instances,
)
from ..d2.utils import comm
from .dataset import AugmentConfig, TrainingDataset, check_image_size, read_ground_truth
from .image import read_image
from .sampler import PositionSampler

logger = logging.getLogger(__name__)


def register_datasets(cfg: CfgNode) -> None:
    """Register the data sets of DATASETS.REGISTER.

    Raises:
        ValueError: when an entry is not [name, annotation file, image folder], or when its name is
            already that of another data set.
        FileNotFoundError: when a file or folder does not exist.
    """
    for entry in cfg.DATASETS.REGISTER:
        if isinstance(entry, str) or len(entry) != 3:
            raise ValueError(
                f"DATASETS.REGISTER has {entry!r}, expected [name, annotation file, image folder]"
            )
        name, *files = map(str, entry)
        for path in files:
            if not Path(path).exists():
                raise FileNotFoundError(
                    f"DATASETS.REGISTER, data set {name!r}: no such path {path!r}"
                )
        known = registered_files(name)
        if known is None:
            register_coco_instances(name, {}, *files)
        elif known != files:
            raise ValueError(f"DATASETS.REGISTER: {name!r} is already the name of another data set")


def registered_files(name: str) -> list[str | None] | None:
    """Annotation file and image folder of a registered data set; None if there is none."""
    if name not in DatasetCatalog.list():
        return None
    metadata = MetadataCatalog.get(name)
    return [metadata.get("json_file"), metadata.get("image_root")]


def use_coco_files(
    cfg: CfgNode, train: tuple[str, str] | None, test: tuple[str, str] | None
) -> None:
    """Point a configuration at COCO files: data sets and classes.

    Args:
        cfg: changed in place.
        train: annotation file and image folder to train on; None leaves the config's.
        test: the same to evaluate on; None leaves the config's, or nothing when `train` is given.

    Raises:
        FileNotFoundError: when there is no such annotation file.
        ValueError: when a file has no categories, or when the classes to evaluate on are not those
            to train on, which a run's own config.yaml names too.
    """
    if train is not None and test is None:
        cfg.DATASETS.TEST = ()
    for split, given in (("TRAIN", train), ("TEST", test)):
        if given is None:
            continue
        files = list(map(str, given))
        path = Path(files[0])
        if not path.is_file():
            raise FileNotFoundError(f"no annotation file {str(path)!r}")
        known = {entry[0]: list(entry[1:]) for entry in cfg.DATASETS.REGISTER}
        # Folder and file tell most data sets apart; the whole path tells the rest.
        name = f"{path.resolve().parent.name}/{path.stem}"
        taken = known.get(name) or registered_files(name)
        if taken not in (None, files):
            name = str(path.resolve())
        if name not in known:
            cfg.DATASETS.REGISTER = [*cfg.DATASETS.REGISTER, [name, *files]]
        cfg.DATASETS[split] = (name,)
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if not isinstance(data, dict) or not data.get("categories"):
            raise ValueError(f"{str(path)!r} is not in COCO format: it has no 'categories'")
        categories = sorted(data["categories"], key=lambda x: x["id"])
        names = [str(x["name"]) for x in categories]
        expected = cfg.MODEL.YOLOR.CLASS_NAMES
        if split == "TEST" and expected and names != expected:
            raise ValueError(
                f"{str(path)!r} has the classes {names}, but the model is trained on {expected}"
            )
        cfg.MODEL.YOLOR.NUM_CLASSES = len(names)
        cfg.MODEL.YOLOR.CLASS_NAMES = names


def class_names(cfg: CfgNode) -> list[str]:
    """Names of the model's classes: the config's, else the test set's, else their numbers."""
    known = None
    if cfg.DATASETS.TEST:
        known = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes")
    names = list(cfg.MODEL.YOLOR.CLASS_NAMES or known or [])
    numbers = [str(i) for i in range(cfg.MODEL.YOLOR.NUM_CLASSES)]
    return names if len(names) == len(numbers) else numbers


def check_classes(cfg: CfgNode, name: str) -> None:
    """Compare the number of classes of a loaded data set with that of the model.

    Raises:
        ValueError: when they differ.
    """
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != cfg.MODEL.YOLOR.NUM_CLASSES:
        raise ValueError(
            f"MODEL.YOLOR.NUM_CLASSES is {cfg.MODEL.YOLOR.NUM_CLASSES}, but data set {name!r} has "
            f"{len(classes)} classes: {', '.join(map(str, classes[:10]))}"
            f"{', ...' if len(classes) > 10 else ''}"
        )


def training_size(cfg: CfgNode) -> int:
    """Side of the square training images in pixels.

    Raises:
        ValueError: when the configuration asks for other than square images of one size.
    """
    size = cfg.INPUT.MAX_SIZE_TRAIN
    if tuple(cfg.INPUT.MIN_SIZE_TRAIN) != (size,):
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}, expected ({size},) as "
            f"INPUT.MAX_SIZE_TRAIN is {size}: the longer side of every image gets this length"
        )
    return size


def load_training_items(cfg: CfgNode) -> list[dict]:
    """Dataset dicts of DATASETS.TRAIN.

    Raises:
        ValueError: when classes do not fit the model, or when no image has a usable box.
    """
    names, num_classes = list(cfg.DATASETS.TRAIN), cfg.MODEL.YOLOR.NUM_CLASSES
    items = get_detection_dataset_dicts(names, filter_empty=False)
    for name in names:
        check_classes(cfg, name)
    given = sum(not x.get("iscrowd", 0) for item in items for x in item.get("annotations", []))
    usable = [read_ground_truth(item)[1] for item in items]  # classes, by image
    for item, labels in zip(items, usable):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"image {item['file_name']!r} has an object of class {labels.max()}, but "
                f"MODEL.YOLOR.NUM_CLASSES is {num_classes}"
            )
    left = sum(map(len, usable))
    if left == 0:
        raise ValueError(f"DATASETS.TRAIN {names}: no image has a box of positive size inside it")
    if left < given:
        logger.warning(
            "DATASETS.TRAIN %s: %d of %d boxes are left out: empty, or outside their image",
            names,
            given - left,
            given,
        )
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        items = [item for item, labels in zip(items, usable) if len(labels)]
    return items


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> DataLoader:
    """Endless loader of augmented batches.

    Args:
        cfg: the configuration.
        start_iter: the first batch is that of this iteration; what it holds does not depend on
            whether the batches before it were loaded by this loader.
    """
    # Threads of OpenCV inside worker processes fight for the same cores.
    cv2.setNumThreads(0)
    seed = max(cfg.SEED, 0)
    node = cfg.INPUT.AUGMENT
    samples = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    dataset = TrainingDataset(
        load_training_items(cfg),
        size=training_size(cfg),
        seed=seed,
        augment=AugmentConfig(
            mosaic=node.MOSAIC,
            first_plain_position=round((1 - node.MOSAIC_OFF) * samples),
            scale=node.SCALE,
            translate=node.TRANSLATE,
            hsv=tuple(node.HSV),
            flip=node.FLIP,
        ),
        channel_order=cfg.INPUT.FORMAT,
    )
    sampler = PositionSampler(
        len(dataset),
        seed=seed,
        start=start_iter * cfg.SOLVER.IMS_PER_BATCH,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return build_detection_train_loader(
        dataset,
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


class ResizeForTest(ResizeShortestEdge):
    """The resize of the test pipeline; very elongated images keep a side of at least one pixel."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ResizeForTest:
        size = cfg.INPUT.MIN_SIZE_TEST
        return cls([size, size], cfg.INPUT.MAX_SIZE_TEST)

    def get_transform(self, image: np.ndarray):
        transform = super().get_transform(image)
        transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


class EvaluationMapper:
    """Dataset dict to model input: read and resize, as `DefaultPredictor` does with an array.

    Args:
        resize: the resize of the test pipeline.
        channel_order: "RGB" or "BGR".
    """

    def __init__(self, resize: ResizeShortestEdge, channel_order: str):
        self.resize = resize
        self.channel_order = channel_order

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EvaluationMapper:
        return cls(ResizeForTest.from_config(cfg), cfg.INPUT.FORMAT)

    def __call__(self, item: dict) -> dict:
        image = read_image(item["file_name"], self.channel_order)
        check_image_size(item, image)
        height, width = image.shape[:2]
        image = self.resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        kept = {key: value for key, value in item.items() if key != "annotations"}
        return {"height": height, "width": width, **kept, "image": pixels}


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Loader over one data set, one image a batch, in its order.

    Raises:
        ValueError: when its classes do not fit the model.
    """
    items = get_detection_dataset_dicts([name], filter_empty=False)
    check_classes(cfg, name)
    return build_detection_test_loader(
        items, mapper=EvaluationMapper.from_config(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
