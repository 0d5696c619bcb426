"""Files of the toy data set: pictures and COCO JSON of both splits."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .masks import encode_rle, tight_box, trace
from .scenes import SceneObject, make_individuals, make_scene
from .shapes import CATEGORIES, KEYPOINT_NAMES, KEYPOINTS, SKELETON, Category, Size

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the pictures change, so that older folders are not reused
EMPTY_EVERY = 12  # one image in twelve, 8 %, has no object
OBJECTS = (4, 10)  # fewest and most in any other image
CROWD_VAL_IMAGES = (1, 3)  # indices of the val images that hold an iscrowd region
FIRST_IMAGE_ID = {"train": 1, "val": 100001}


@dataclass(frozen=True)
class ToyDataset:
    """Where a data set lies. ``classes`` are in the order of rising category id."""

    root: Path
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path
    classes: tuple[str, ...]


def _annotation(
    annotation_id: int, image_id: int, scene_object: SceneObject, keypoints: bool
) -> dict:
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": scene_object.category.id,
        "bbox": tight_box(scene_object.mask),
        "area": float(scene_object.mask.sum()),
        "iscrowd": int(scene_object.is_crowd),
    }
    if scene_object.individual is not None:
        annotation["instance_id"] = scene_object.individual
    if keypoints:
        # COCO's own tools expect them of every object.
        points = scene_object.keypoints
        points = np.zeros((len(KEYPOINT_NAMES), 3)) if points is None else points.copy()
        known = points[:, 2] > 0
        points[known, :2] -= 0.5  # numbers of pixels, as COCO has them
        annotation["keypoints"] = points.round(2).ravel().tolist()
        annotation["num_keypoints"] = int(known.sum())
    if scene_object.is_crowd:
        annotation["segmentation"] = encode_rle(scene_object.mask)
    elif polygons := trace(scene_object.mask):
        annotation["segmentation"] = polygons
    return annotation


def _category(category: Category, keypoints: bool) -> dict:
    entry = {"id": category.id, "name": category.name, "supercategory": "shape"}
    if keypoints and category.name in KEYPOINTS:
        entry["keypoints"] = list(KEYPOINT_NAMES)
        entry["skeleton"] = [list(line) for line in SKELETON]
    return entry


def _write_safely(path: Path, content: bytes) -> None:
    """Write under another name, then rename: whoever reads the file finds all of it or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _write_split(json_path: Path, folder: Path, split: str, num_images: int, info: dict) -> None:
    """Write the pictures of one split, then its JSON file."""
    parameters = info["parameters"]
    folder.mkdir(parents=True, exist_ok=True)
    individuals = make_individuals(parameters["seed"], parameters.get("identities", 0))
    images, annotations = [], []
    keypoints = parameters.get("keypoints", False)
    for index in range(num_images):
        # A generator for each image: image i is the same however many there are.
        rng = np.random.default_rng([parameters["seed"], FIRST_IMAGE_ID[split], index])
        is_empty = index % EMPTY_EVERY == EMPTY_EVERY // 2
        low, high = parameters.get("objects", OBJECTS)
        num_objects = 0 if is_empty else int(rng.integers(low, high + 1))
        with_crowd = split == "val" and index in CROWD_VAL_IMAGES
        picture, objects = make_scene(
            rng,
            parameters["image_size"],
            num_objects=num_objects,
            with_crowd=with_crowd,
            individuals=individuals,
            keypoints=keypoints,
        )
        image_id = FIRST_IMAGE_ID[split] + index
        file_name = f"{image_id:06d}.jpg"
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write_safely(folder / file_name, encoded.tobytes())
        height, width = picture.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for scene_object in objects:
            number = len(annotations) + 1
            annotations.append(_annotation(number, image_id, scene_object, keypoints))
    content = {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_category(c, keypoints) for c in CATEGORIES],
    }
    _write_safely(json_path, json.dumps(content).encode())


def _is_complete(json_path: Path, folder: Path, info: dict) -> bool:
    """Say whether a split is complete.

    Raises:
        FileExistsError: the JSON file is another data set, which must not be overwritten unasked.
    """
    if not json_path.exists():
        return False
    try:
        content = json.loads(json_path.read_bytes())
    except ValueError:
        logger.warning("%s is not valid JSON; the data set is written anew", json_path)
        return False
    written = content.get("info") if isinstance(content, dict) else None
    if written != info:
        raise FileExistsError(
            f"{json_path} holds another data set: its info is {written}, wanted is {info}; "
            "choose another folder or force"
        )
    return all((folder / image["file_name"]).is_file() for image in content["images"])


def write_toy_dataset(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 100,
    image_size: Size = (256, 320),
    seed: int = 0,
    identities: int = 0,
    keypoints: bool = False,
    objects: tuple[int, int] = OBJECTS,
    force: bool = False,
) -> ToyDataset:
    """Write the data set, or find it already written.

    A complete data set of the same parameters is kept unchanged, an incomplete one is written anew.

    Args:
        root: folder that receives instances_train.json, instances_val.json, train/ and val/.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        image_size: largest (H, W) in pixels, at least 96 each; see ``make_scene``.
        seed: equal seeds give equal bytes, >= 0.
        identities: individuals that are seen again and again, see the module; 0 for none.
        keypoints: whether triangles and crosses have keypoints, see the module.
        objects: fewest and most objects of an image that is not empty, at least 1. With few of
            them, images differ in which classes they show.
        force: write even if a data set is there, also one of other parameters.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: ``root`` holds a data set of other parameters and ``force`` is False.
    """
    if min(num_train, num_val) < 1 or seed < 0 or len(image_size) != 2 or min(image_size) < 96:
        raise ValueError(
            "need num_train >= 1, num_val >= 1, seed >= 0 and image_size of two sides >= 96; "
            f"got {num_train=}, {num_val=}, {seed=}, {image_size=}"
        )
    if identities < 0 or len(objects) != 2 or not 1 <= objects[0] <= objects[1]:
        raise ValueError(
            "need identities >= 0 and objects of two numbers, 1 <= fewest <= most; "
            f"got {identities=}, {objects=}"
        )
    root = Path(root)
    classes = tuple(category.name for category in CATEGORIES)
    toy = ToyDataset(
        root,
        root / "instances_train.json",
        root / "train",
        root / "instances_val.json",
        root / "val",
        classes,
    )
    parameters = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": list(image_size),
        "seed": seed,
    }
    if identities:
        parameters["identities"] = identities
    if keypoints:
        parameters["keypoints"] = True
    if tuple(objects) != OBJECTS:
        parameters["objects"] = list(objects)
    info = {
        "description": "yolor_d2 toy data set",
        "version": str(VERSION),
        "parameters": parameters,
    }
    splits = [
        (toy.train_json, toy.train_images, "train", num_train),
        (toy.val_json, toy.val_images, "val", num_val),
    ]
    if not force and all([_is_complete(path, folder, info) for path, folder, _, _ in splits]):
        return toy
    for json_path, _, _, _ in splits:
        json_path.unlink(missing_ok=True)  # never an old list beside new pictures
    for json_path, folder, split, num_images in splits:
        _write_split(json_path, folder, split, num_images, info)
    return toy
