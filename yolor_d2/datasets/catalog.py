"""Data sets by name: COCO files that are registered, and what is in them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..d2.config import CfgNode
from ..d2.data import (
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
    load_coco_json,
)
from ..inputs import require_registered
from ..structures.keypoints import pairs_by_names
from ..wording import did_you_mean
from .annotations import IDENTITY_KEY, Annotations
from .entries import check_category_names
from .ground_truth import GroundTruth
from .keypoints import read_keypoints, read_layout
from .open_files import open_annotations, read_annotations
from .polygons import read_polygons
from .source import AnnotationFileError

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
            require_registered(name, path)
        known = registered_files(name)
        if known is None:
            register_coco_file(name, *files)
        elif known != files:
            raise ValueError(f"DATASETS.REGISTER: {name!r} is already the name of another data set")
    name_classes(cfg)


def register_coco_file(name: str, json_file: str, image_root: str) -> None:
    """Make a data set in COCO's format known, as Detectron2 does, with the identities of its
    objects."""

    def load() -> list[dict]:
        forget_names(name)
        return load_coco_json(json_file, image_root, name, extra_annotation_keys=[IDENTITY_KEY])

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


# Data sets whose classes have their names from a configuration, until they are read.
_NAMED_BY_CONFIG: set[str] = set()


def name_classes(cfg: CfgNode) -> None:
    """Give the names of MODEL.YOLOR.CLASS_NAMES to the metadata of the configuration's data sets,
    so that Detectron2's `Visualizer` knows them before, or without, reading annotations.

    Data sets that somebody else registered keep what they have, as their file has its own names.
    """
    names = list(cfg.MODEL.YOLOR.CLASS_NAMES)
    if len(names) != cfg.MODEL.YOLOR.NUM_CLASSES:
        return
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        function = DatasetCatalog[name] if name in DatasetCatalog.list() else None
        ours = function is None or getattr(function, "__module__", None) == __name__
        if ours and (metadata.get("thing_classes") is None or name in _NAMED_BY_CONFIG):
            forget_names(name)
            metadata.set(thing_classes=names)
            _NAMED_BY_CONFIG.add(name)


def forget_names(name: str) -> None:
    """Take back what `name_classes` has set: the annotations bring their own names."""
    if name in _NAMED_BY_CONFIG:
        _NAMED_BY_CONFIG.remove(name)
        vars(MetadataCatalog.get(name)).pop("thing_classes", None)


def registered_files(name: str) -> list[str | None] | None:
    """Annotation file and image folder of a registered data set; None if there is none."""
    if name not in DatasetCatalog.list():
        return None
    metadata = MetadataCatalog.get(name)
    return [metadata.get("json_file"), metadata.get("image_root")]


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


def class_numbers(wanted: Sequence[str | int], names: Sequence[str]) -> list[int]:
    """Numbers of classes that somebody gives by name or by number.

    Raises:
        ValueError: when there is no such class.
    """
    numbers = []
    for word in wanted:
        if word in names:
            numbers.append(names.index(str(word)))
        elif str(word).isdecimal() and int(word) < len(names):
            numbers.append(int(word))
        else:
            known = f"known are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
            raise ValueError(f"no class {word!r}{did_you_mean(str(word), names, known)}")
    return numbers


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

    Raises:
        KeyError: when no data set has that name; it names the nearest.
    """
    if name not in DatasetCatalog.list():
        hint = did_you_mean(name, DatasetCatalog.list(), "--train and --val take files")
        raise KeyError(f"DATASETS: no data set {name!r}{hint}")
    function = DatasetCatalog[name]
    files = registered_files(name)
    own = getattr(function, "__module__", None) in (__name__, load_coco_json.__module__)
    return (files[0], files[1]) if own and files is not None and None not in files else None


def load_ground_truth(
    name: str, channels: int = 3, polygons: bool = False, keypoints: bool = False
) -> GroundTruth:
    """Images and objects of a registered data set; its metadata get what Detectron2's reader
    would give them.

    Args:
        name: of the data set.
        channels: of the images, see `images.read_image`.
        polygons: whether those of the objects are needed.
        keypoints: the same.

    Raises:
        ValueError: when what is needed makes no sense, naming the file or the image.
    """
    files = annotation_file_of(name)
    if files is None:
        items = get_detection_dataset_dicts([name], filter_empty=False)
        names = MetadataCatalog.get(name).get("keypoint_names")
        count = len(names) if names else None
        return GroundTruth.from_items(items, channels, polygons, keypoints, count)
    annotations = read_annotations(files[0])
    describe(name, annotations)
    outlines = read_polygons(files[0], annotations) if polygons else None
    points = read_keypoints(files[0], annotations) if keypoints else None
    return GroundTruth.from_annotations(annotations, files[1], channels, outlines, points)


def describe(name: str, annotations: Annotations) -> None:
    """Give the metadata of a data set the names and numbers of its classes, and what its keypoints
    are where somebody has not said that before."""
    forget_names(name)
    numbers = {number: place for place, number in enumerate(annotations.category_ids.tolist())}
    metadata = MetadataCatalog.get(name)
    metadata.set(
        thing_classes=list(annotations.category_names), thing_dataset_id_to_contiguous_id=numbers
    )
    try:
        layout = read_layout(metadata.get("json_file") or name, annotations)
    except AnnotationFileError as error:
        logger.warning("%s; keypoints cannot be used", error)
        return
    if layout is None:
        return
    names = metadata.get("keypoint_names") or list(layout.names)
    entries = {"keypoint_names": names, "keypoint_flip_map": pairs_by_names(names)}
    if tuple(names) == layout.names:
        entries["keypoint_flip_map"] = list(layout.pairs)
        entries["keypoint_connection_rules"] = layout.rules
    metadata.set(**{key: value for key, value in entries.items() if metadata.get(key) is None})


def keypoint_layout(names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the keypoints of data sets, and the pairs of them that a mirror exchanges, both of
    the first that has some.

    Raises:
        ValueError: when data sets have different keypoints.
    """
    known = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("keypoint_names"):
            points = list(metadata.get("keypoint_names"))
            pairs = metadata.get("keypoint_flip_map")
            pairs = pairs_by_names(points) if pairs is None else [(a, b) for a, b in pairs]
            known[name] = points, pairs
    if not known:
        return [], []
    first, *others = known.values()
    if any(x != first for x in others):
        raise ValueError(f"data sets have different keypoints: {known}"[:600])
    return first


def keypoint_lines(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of keypoints between which lines are drawn, of the first of some data sets that has
    keypoints."""
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("keypoint_names"):
            return [(a, b) for a, b, _ in metadata.get("keypoint_connection_rules") or ()]
    return []


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


def count_images(name: str) -> int:
    """Images of a registered data set."""
    files = annotation_file_of(name)
    if files is None:
        return len(DatasetCatalog.get(name))
    return len(read_annotations(files[0]).image_ids)
