"""Data sets in COCO's format, and the two splits of COCO itself."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from importlib import resources

from pycocotools import mask
from pycocotools.coco import COCO

from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .structures import BoxMode

logger = logging.getLogger(__name__)

KEPT_KEYS = ("iscrowd", "bbox", "keypoints", "category_id")
# The numbers up to 90 that COCO left out of its 80 categories.
COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def read_coco(json_file: str) -> COCO:
    """An annotation file, without what pycocotools prints about it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(json_file)


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Read an annotation file as dicts in Detectron2's standard format.

    Categories are numbered 0 ... K - 1 in the order of their ids; the metadata of the data set
    get their names and that mapping. Images come in the order of their ids.

    Args:
        json_file: the annotation file.
        image_root: folder of the images.
        dataset_name: its metadata are filled in; without it the ids of categories are kept.
        extra_annotation_keys: keys of annotations that are taken over where they are present.

    Raises:
        KeyError: when an annotation is of a category that the file has not.
        AssertionError: when ids of annotations are not unique.
        ValueError: when a box is empty.
    """
    coco = read_coco(json_file)
    numbers = None
    if dataset_name is not None:
        categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: i for i, category in enumerate(categories)}
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=numbers,
        )
        if [*numbers] != [*range(1, len(numbers) + 1)]:
            logger.warning(
                "%s: category ids are not 1 ... %d, they are mapped", json_file, len(numbers)
            )
    annotations = coco.dataset.get("annotations", [])
    if len({annotation["id"] for annotation in annotations}) != len(annotations):
        raise AssertionError(f"{json_file!r}: ids of annotations are not unique")

    items, unusable = [], 0
    for image_id in sorted(coco.imgs):
        image = coco.imgs[image_id]
        objects = []
        for annotation in coco.imgToAnns[image_id]:
            item = read_annotation(annotation, json_file, numbers, extra_annotation_keys or ())
            unusable += item is None
            objects += [] if item is None else [item]
        items.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": objects,
            }
        )
    if unusable:
        logger.warning(
            "%s: %d annotations are left out, as their segmentation is no polygon",
            json_file,
            unusable,
        )
    logger.info("Loaded %d images in COCO format from %s", len(items), json_file)
    return items


def read_annotation(
    annotation: dict,
    json_file: str,
    numbers: dict[int, int] | None,
    extra_keys: Sequence[str] = (),
) -> dict | None:
    """One object in Detectron2's standard format; None when its polygons are all too short."""
    item = {key: annotation[key] for key in (*KEPT_KEYS, *extra_keys) if key in annotation}
    if annotation.get("ignore", 0):
        raise AssertionError(f"{json_file!r}, annotation {annotation['id']}: 'ignore' is not known")
    if "bbox" in item and not item["bbox"]:
        raise ValueError(f"{json_file!r}, annotation {annotation['id']}: its bbox is empty")
    shape = annotation.get("segmentation")
    if isinstance(shape, dict) and isinstance(shape["counts"], list):
        shape = mask.frPyObjects(shape, *shape["size"])
    elif isinstance(shape, list) and shape:
        # A polygon has at least three points of two coordinates.
        shape = [points for points in shape if len(points) >= 6 and len(points) % 2 == 0]
        if not shape:
            return None
    if shape:
        item["segmentation"] = shape
    if item.get("keypoints"):
        # From numbers of pixels to coordinates, which visibilities are not.
        points = item["keypoints"]
        item["keypoints"] = [x if i % 3 == 2 else x + 0.5 for i, x in enumerate(points)]
    item["bbox_mode"] = BoxMode.XYWH_ABS
    if numbers is not None:
        if item["category_id"] not in numbers:
            raise KeyError(
                f"{json_file!r}, annotation {annotation['id']}: category_id "
                f"{item['category_id']} is not among its categories {[*numbers]}"
            )
        item["category_id"] = numbers[item["category_id"]]
    return item


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str) -> Metadata:
    """Make a data set known by a name; its file is read on first use."""
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    return MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def register_coco() -> None:
    """COCO 2017 below the folder that DETECTRON2_DATASETS names, ./datasets without it."""
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "coco")
    classes = resources.files(__package__).joinpath("coco_classes.txt").read_text(encoding="utf-8")
    ids = [i for i in range(1, 91) if i not in COCO_UNUSED_IDS]
    metadata = {
        "thing_classes": classes.splitlines(),
        "thing_dataset_id_to_contiguous_id": {number: i for i, number in enumerate(ids)},
    }
    for split in ("train", "val"):
        register_coco_instances(
            f"coco_2017_{split}",
            metadata,
            os.path.join(root, "annotations", f"instances_{split}2017.json"),
            os.path.join(root, f"{split}2017"),
        )
        register_coco_instances(
            f"keypoints_coco_2017_{split}",
            {"thing_classes": ["person"], "thing_dataset_id_to_contiguous_id": {1: 0}},
            os.path.join(root, "annotations", f"person_keypoints_{split}2017.json"),
            os.path.join(root, f"{split}2017"),
        )


register_coco()
