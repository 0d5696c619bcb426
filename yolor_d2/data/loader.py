"""Loaders and data sets from a configuration."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader

from ..d2.config import CfgNode
from ..d2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_coco_json,
)
from ..d2.utils import comm
from ..inputs import dataset_name, require_annotations, require_registered
from ..modeling.backbone import variant_from_config
from ..modeling.images import padding_from_config
from ..ops.anchors import best_possible_recall
from .accumulation import Accumulation
from .annotations import IDENTITY_KEY, Annotations, open_annotations, read_annotations
from .check.entries import check_category_names
from .dataset import TrainingDataset, check_image_size
from .fingerprint import take_fingerprint
from .ground_truth import GroundTruth, known_identities
from .image import read_image
from .image_weights import image_weights
from .resize import ReferenceResize, ResizeForTest, build_test_resize, resize_for_test, to_pixels
from .sampler import PositionSampler, epoch_order
from .settings import (
    augment_config,
    batch_shapes,
    build_cache,
    training_size,
)
from .workers import shield_worker

logger = logging.getLogger(__name__)

# Training warns when a smaller share of the boxes than this matches an anchor.
LEAST_RECALL = 0.98


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
            require_registered(name, path)
        known = registered_files(name)
        if known is None:
            register_coco_file(name, *files)
        elif known != files:
            raise ValueError(f"DATASETS.REGISTER: {name!r} is already the name of another data set")


def register_coco_file(name: str, json_file: str, image_root: str) -> None:
    """Make a data set in COCO's format known, as Detectron2 does, with the identities of its
    objects."""
    DatasetCatalog.register(
        name,
        lambda: load_coco_json(json_file, image_root, name, extra_annotation_keys=[IDENTITY_KEY]),
    )
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


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
        require_annotations(given[0])
        # A run can be gone on with from another folder.
        files = [os.path.abspath(x) for x in given]
        path = Path(files[0])
        known = {entry[0]: list(entry[1:]) for entry in cfg.DATASETS.REGISTER}
        # Folder and file tell most data sets apart; the whole path tells the rest.
        name = dataset_name(path)
        taken = known.get(name) or registered_files(name)
        if taken not in (None, files):
            name = str(path.resolve())
        if name not in known:
            cfg.DATASETS.REGISTER = [*cfg.DATASETS.REGISTER, [name, *files]]
        cfg.DATASETS[split] = (name,)
        names = read_class_names(path)
        expected = cfg.MODEL.YOLOR.CLASS_NAMES
        if split == "TEST" and expected and names != expected:
            raise ValueError(
                f"{str(path)!r} has the classes {names}, but the model is trained on {expected}"
            )
        cfg.MODEL.YOLOR.NUM_CLASSES = len(names)
        cfg.MODEL.YOLOR.CLASS_NAMES = names
        if split == "TRAIN":
            cfg.MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES = 0  # those of the new data set


def read_class_names(path: Path) -> list[str]:
    """Names of the categories of a COCO file, by rising id.

    Raises:
        AnnotationFileError: when it has none, or one that makes no sense.
    """
    file = open_annotations(path)
    if file.content is not None:
        return check_category_names(path, file.content["categories"])
    return check_category_names(path, file.annotations.as_coco([])["categories"])


def class_names(cfg: CfgNode, datasets: Sequence[str] | None = None) -> list[str]:
    """Names of the model's classes: the config's, else those of the first of some data sets
    (DATASETS.TEST as a rule), else their numbers."""
    known = None
    datasets = cfg.DATASETS.TEST if datasets is None else datasets
    if datasets:
        known = MetadataCatalog.get(datasets[0]).get("thing_classes")
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


def annotation_file_of(name: str) -> tuple[str, str] | None:
    """Annotation file and image folder of a data set that is such a file and nothing else.

    That is one which `register_coco_file` or the runtime's `register_coco_instances` has
    registered; None for one by any other function, which may choose among the entries of a file.
    """
    function = DatasetCatalog[name] if name in DatasetCatalog.list() else None
    files = registered_files(name)
    own = getattr(function, "__module__", None) in (__name__, load_coco_json.__module__)
    return (files[0], files[1]) if own and files is not None and None not in files else None


def load_ground_truth(name: str, channels: int = 3) -> GroundTruth:
    """Images and objects of a registered data set; its metadata get what Detectron2's reader
    would give them."""
    files = annotation_file_of(name)
    if files is None:
        return GroundTruth.from_items(
            get_detection_dataset_dicts([name], filter_empty=False), channels
        )
    annotations = read_annotations(files[0])
    describe(name, annotations)
    return GroundTruth.from_annotations(annotations, files[1], channels)


def describe(name: str, annotations: Annotations) -> None:
    """Give the metadata of a data set the names and numbers of its classes."""
    numbers = {number: place for place, number in enumerate(annotations.category_ids.tolist())}
    MetadataCatalog.get(name).set(
        thing_classes=list(annotations.category_names), thing_dataset_id_to_contiguous_id=numbers
    )


def load_training_truth(cfg: CfgNode) -> GroundTruth:
    """Images and objects of DATASETS.TRAIN.

    Raises:
        ValueError: when classes do not fit the model, or when no image has a usable box.
    """
    names, num_classes = list(cfg.DATASETS.TRAIN), cfg.MODEL.YOLOR.NUM_CLASSES
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on")
    parts = [load_ground_truth(name, len(cfg.MODEL.PIXEL_MEAN)) for name in names]
    for name in names:
        check_classes(cfg, name)
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if any(x != classes[0] for x in classes):
        raise ValueError(f"DATASETS.TRAIN {names} have different classes: {classes}"[:400])
    truth = GroundTruth.join(parts)
    beyond = np.flatnonzero((truth.labels < 0) | (truth.labels >= num_classes))
    if len(beyond):
        image = int(np.searchsorted(truth.starts, beyond[0], side="right")) - 1
        raise ValueError(
            f"image {truth.file_names[image]!r} has an object of class {truth.labels[beyond[0]]}, "
            f"but MODEL.YOLOR.NUM_CLASSES is {num_classes}"
        )
    left = len(truth.labels)
    if left == 0:
        raise ValueError(f"DATASETS.TRAIN {names}: no image has a box of positive size inside it")
    if left < truth.num_given:
        logger.warning(
            "DATASETS.TRAIN %s: %d of %d boxes are left out: empty, or outside their image",
            names,
            truth.num_given - left,
            truth.num_given,
        )
    return truth.without_empty() if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else truth


def log_counts(cfg: CfgNode, truth: GroundTruth) -> None:
    """Write how many images there are, and objects of each class."""
    names = class_names(cfg, cfg.DATASETS.TRAIN)
    counts = np.bincount(truth.labels, minlength=len(names)).tolist()
    cells = [cell for pair in [*zip(names, counts), ("all", len(truth.labels))] for cell in pair]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    table = tabulate(rows, ["class", "objects"] * min(3, len(names) + 1), tablefmt="pipe")
    logger.info("DATASETS.TRAIN: %d images\n%s", len(truth), table)


def count_identities(cfg: CfgNode) -> None:
    """Set MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES from DATASETS.TRAIN, if it is needed and 0.

    Raises:
        ValueError: when no object of the training set has an identity.
    """
    node = cfg.MODEL.YOLOR.TASKS.EMBEDDING
    if not node.ENABLED or node.NUM_IDENTITIES:
        return
    node.NUM_IDENTITIES = len(known_identities(load_training_truth(cfg).identities))
    if node.NUM_IDENTITIES == 0:
        raise ValueError(
            f"MODEL.YOLOR.TASKS.EMBEDDING.ENABLED is True, but no object of DATASETS.TRAIN "
            f"{list(cfg.DATASETS.TRAIN)} says which individual it is: its annotation needs the key "
            f"{IDENTITY_KEY!r}"
        )


def check_identities(cfg: CfgNode, dataset: TrainingDataset) -> None:
    """Compare the identities of the training set with those that the model learns.

    Raises:
        ValueError: when they are not of the same number.
    """
    node = cfg.MODEL.YOLOR.TASKS.EMBEDDING
    if node.ENABLED and dataset.num_identities != node.NUM_IDENTITIES:
        raise ValueError(
            f"MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES is {node.NUM_IDENTITIES}, but the objects "
            f"of DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)} have {dataset.num_identities} identities"
        )


def warn_of_anchors(cfg: CfgNode, dataset: TrainingDataset) -> None:
    """Say so if many boxes match no anchor, and so cannot be learned."""
    anchors = torch.tensor(variant_from_config(cfg).anchors).flatten(0, 1)
    sizes = dataset.box_sizes()
    recall = best_possible_recall(sizes, anchors, cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO)
    if recall < LEAST_RECALL:
        logger.warning(
            "%.1f %% of the %d boxes match an anchor (MODEL.YOLOR.ANCHORS); the others cannot be "
            "learned. Anchors that fit: python -m yolor_d2 anchors --config-file %s/config.yaml",
            *(100 * recall, len(sizes), cfg.OUTPUT_DIR),
        )


def count_training_images(cfg: CfgNode) -> int:
    """Images of DATASETS.TRAIN that an epoch consists of."""
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return len(load_training_truth(cfg))
    return sum(map(count_images, cfg.DATASETS.TRAIN))


def count_images(name: str) -> int:
    """Images of a registered data set."""
    files = annotation_file_of(name)
    if files is None:
        return len(DatasetCatalog.get(name))
    return len(read_annotations(files[0]).image_ids)


def fingerprint(cfg: CfgNode, dataset: TrainingDataset) -> tuple[dict, Sequence[str]]:
    """What a run is trained on, see `fingerprint.take_fingerprint`, and the names of its images."""
    roots = [MetadataCatalog.get(name).get("image_root") for name in cfg.DATASETS.TRAIN]
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or []
    taken = take_fingerprint(dataset, names, [root for root in roots if root])
    return taken, dataset.truth.file_names


def build_training_dataset(cfg: CfgNode) -> TrainingDataset:
    """The samples of DATASETS.TRAIN as INPUT wants them."""
    seed = max(cfg.SEED, 0)
    truth = load_training_truth(cfg)
    log_counts(cfg, truth)
    dataset = TrainingDataset(
        truth,
        size=training_size(cfg),
        seed=seed,
        augment=augment_config(cfg),
        channel_order=cfg.INPUT.FORMAT,
        channels=len(cfg.MODEL.PIXEL_MEAN),
        padding=padding_from_config(cfg),
    )
    check_identities(cfg, dataset)
    dataset.shapes = batch_shapes(cfg, dataset.unrounded_sizes, seed)
    dataset.cache = build_cache(cfg, dataset)
    return dataset


def epoch_orders(
    cfg: CfgNode, dataset: TrainingDataset, class_ap: Sequence[float] | None
) -> tuple[int, Callable[[int], np.ndarray] | None]:
    """Positions in an epoch, and the indices of an epoch; None takes every image once.

    Args:
        cfg: the configuration.
        dataset: the samples.
        class_ap: see `build_train_loader`.
    """
    if dataset.shapes.order is not None:
        return dataset.shapes.order.size, dataset.shapes.order.epoch
    if class_ap is None:
        return len(dataset), None
    labels = np.split(dataset.labels, dataset.starts[1:-1])  # by image
    weights = image_weights(labels, cfg.MODEL.YOLOR.NUM_CLASSES, class_ap)
    order = functools.partial(epoch_order, dataset.seed, size=len(dataset), weights=weights)
    return len(dataset), order


def build_train_loader(
    cfg: CfgNode,
    start_iter: int = 0,
    class_ap: Sequence[float] | None = None,
    dataset: TrainingDataset | None = None,
) -> DataLoader:
    """Endless loader of augmented batches.

    Args:
        cfg: the configuration.
        start_iter: the first batch is that of this iteration; what it holds does not depend on
            whether the batches before it were loaded by this loader.
        class_ap: average precision of each class in 0-1, by which images are drawn, see
            `image_weights`; None takes each image once an epoch.
        dataset: the samples, of `build_training_dataset`; None makes them.
    """
    # Threads of OpenCV inside worker processes fight for the same cores.
    cv2.setNumThreads(0)
    if dataset is None:
        dataset = build_training_dataset(cfg)
        warn_of_anchors(cfg, dataset)
    size, order = epoch_orders(cfg, dataset, class_ap)
    batches = Accumulation.from_config(cfg).batches_before(start_iter)
    sampler = PositionSampler(
        size,
        seed=dataset.seed,
        order=order,
        start=batches * cfg.SOLVER.IMS_PER_BATCH,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
    )
    loader = build_detection_train_loader(
        dataset,
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    # The runtimes wrap it, each in its own way.
    loader.training_set = dataset
    return loader


class EvaluationMapper:
    """Dataset dict to model input: read and resize, as `DefaultPredictor` does with an array.

    Args:
        resize: the resize of the test pipeline.
        channel_order: "RGB" or "BGR".
        channels: of the images, see `image.read_image`.
    """

    def __init__(
        self, resize: ResizeForTest | ReferenceResize, channel_order: str, channels: int = 3
    ):
        self.resize = resize
        self.channel_order = channel_order
        self.channels = channels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EvaluationMapper:
        channels = len(cfg.MODEL.PIXEL_MEAN)
        return cls(build_test_resize(cfg), cfg.INPUT.FORMAT, channels)

    def __call__(self, item: dict) -> dict:
        shield_worker()
        image = read_image(item["file_name"], self.channel_order, self.channels)
        check_image_size(item, image)
        height, width = image.shape[:2]
        image = resize_for_test(self.resize, image)
        kept = {key: value for key, value in item.items() if key != "annotations"}
        return {"height": height, "width": width, **kept, "image": to_pixels(image)}


def load_test_items(name: str) -> list[dict]:
    """Dataset dicts of a data set's images, those of a COCO file without their objects."""
    files = annotation_file_of(name)
    if files is None:
        return get_detection_dataset_dicts([name], filter_empty=False)
    annotations = read_annotations(files[0])
    describe(name, annotations)
    items = []
    sizes = annotations.sizes.tolist()
    for number, file, (height, width) in zip(
        annotations.image_ids.tolist(), annotations.file_names, sizes
    ):
        item = {"file_name": os.path.join(files[1], file), "image_id": number}
        items.append({**item, "height": height, "width": width} if height > 0 < width else item)
    return items


def load_labels(name: str) -> list[dict]:
    """Dataset dicts of a data set with the classes of all objects, crowds included, alone."""
    files = annotation_file_of(name)
    if files is None:
        return DatasetCatalog.get(name)
    annotations = read_annotations(files[0])
    labels, crowd = annotations.labels.tolist(), annotations.crowd.tolist()
    starts = annotations.starts.tolist()
    return [
        {
            "image_id": number,
            "annotations": [
                {"category_id": labels[row], "iscrowd": int(crowd[row])}
                for row in range(*starts[i : i + 2])
            ],
        }
        for i, number in enumerate(annotations.image_ids.tolist())
    ]


def order_by_aspect_ratio(items: Sequence[dict], channels: int = 3) -> list[dict]:
    """Dataset dicts from the widest image to the highest, stable among equal ratios."""

    def ratio(item: dict) -> float:
        if "height" not in item or "width" not in item:
            height, width = read_image(item["file_name"], channels=channels).shape[:2]
            return height / width
        return item["height"] / item["width"]

    return sorted(items, key=ratio)


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Loader over one data set, in its order or, with TEST.ASPECT_RATIO_ORDER, by aspect ratio.

    Raises:
        ValueError: when its classes do not fit the model.
    """
    items = load_test_items(name)
    check_classes(cfg, name)
    if cfg.TEST.ASPECT_RATIO_ORDER:
        items = order_by_aspect_ratio(items, len(cfg.MODEL.PIXEL_MEAN))
    return build_detection_test_loader(
        items,
        mapper=EvaluationMapper.from_config(cfg),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
