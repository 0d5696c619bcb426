"""Readers of what strangers write, called on bytes: each target raises only if there is a fault.

The bytes are instructions: which valid example to start from, and what to change in it. So most
inputs get past the first check, with any source of bytes: atheris, hypothesis, a random generator.
"""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from checkpoint.authors_files import OF_A_RUN, save_authors_file, with_anchors
from safetensors.torch import save as save_safetensors

from yolor_d2.checkpoint.errors import WeightsFileError
from yolor_d2.checkpoint.formats.load import read_weights
from yolor_d2.config import read_config
from yolor_d2.d2.structures import BoxMode
from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.datasets.formats import read_labelled
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.datasets.keypoints import read_keypoints
from yolor_d2.datasets.open_files import read_annotations
from yolor_d2.datasets.polygons import read_polygons
from yolor_d2.datasets.source import read_coco
from yolor_d2.doctor import Source, check_sources
from yolor_d2.doctor.quick import quick_check
from yolor_d2.doctor.repair import write_repaired

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 2**31, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308),
    *(
        math.nan,
        math.inf,
        "",
        "x",
        "1",
        "../../etc/passwd",
        "ü\u202e",
        "a\x00b",
        "\ud800",
        "a" * 5000,
    ),
    *(
        [],
        {},
        [0, 0, 1, 1],
        [0, 0, -5, 3],
        [1, 2],
        [[1, 2], [3, 4]],
        {"a": {}},
        ["1", "2", "3", "4"],
    ),
]


# Masks of objects.
SHAPES = [
    [],
    [[1, 1, 9, 1, 9, 9, 1, 9], [2, 2, 3, 3, 4, 4]],
    {"size": [40, 60], "counts": [100, 20, 2280]},
    {"size": [40, 60], "counts": "T3d0XW2"},
]


class Bytes:
    """Takes decisions from bytes; zeros follow the last one.

    Args:
        data: the decisions.
    """

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        found = self.data[self.place : self.place + count]
        self.place += count
        return found.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        """A whole number from 0."""
        return int.from_bytes(self.take(4), "little") % limit

    def pick(self, items: list) -> Any:
        return items[self.below(len(items))]

    def real(self, low: float, high: float) -> float:
        return low + (high - low) * int.from_bytes(self.take(4), "little") / (2**32 - 1)

    @property
    def left(self) -> bool:
        return self.place < len(self.data)


@cache
def folder() -> Path:
    """Where the files of this process are; deleted with it."""
    made = tempfile.TemporaryDirectory(prefix="yolor_d2-fuzz-")
    folder.keep = made  # type: ignore[attr-defined]
    return Path(made.name)


@cache
def images() -> list[Path]:
    """A few images of odd sizes."""
    paths = []
    for i, (height, width) in enumerate([(40, 60), (1, 1), (1, 300), (64, 64), (300, 3)]):
        path = folder() / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(path), noise)
        paths.append(path)
    return paths


# ---- Changing examples


def change_tree(tree: Any, data: Bytes) -> Any:
    """Nested data with some values replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    while data.left:
        node = tree
        for _ in range(data.below(6)):
            children = [x for x in items_of(node) if isinstance(x[1], dict | list) and x[1]]
            if not children:
                break
            node = data.pick(children)[1]
        keys = [key for key, _ in items_of(node)]
        if not keys:
            continue
        key, action = data.pick(keys), data.below(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif action == 1:
            node[str(data.pick(VALUES))] = copy.deepcopy(node[key])
        else:
            node[key] = copy.deepcopy(data.pick(VALUES))
    return tree


def items_of(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list) else []


def change_bytes(content: bytes, data: Bytes) -> bytes:
    """A file with bytes replaced, put in, taken out, or cut off."""
    changed = bytearray(content)
    while data.left and changed:
        place, action = data.below(len(changed)), data.below(5)
        if action == 0:
            changed[place] = data.below(256)
        elif action == 1:
            changed[place:place] = data.take(1 + data.below(8))
        elif action == 2:
            del changed[place : place + 1 + data.below(16)]
        elif action == 3:
            changed[place : place + 4] = struct.pack("<I", data.pick([0, 1, 2**31 - 1, 2**32 - 1]))
        else:
            del changed[place:]
    return bytes(changed)


# ---- Targets


def coco(content: bytes) -> None:
    """The dataset doctor, its repair, and the look at a data set before training."""
    data = Bytes(content)
    example = {
        "images": [
            {"id": i, "file_name": path.name, "height": 40, "width": 60}
            for i, path in enumerate(images())
        ],
        "categories": [{"id": i, "name": name} for i, name in ((1, "cat"), (7, "dog"))],
        "annotations": [
            {"id": i, "image_id": i % 5, "category_id": 1 + 6 * (i % 2), "iscrowd": 0}
            | {"bbox": [i, i, 10, 8.5], "area": 85.0, "segmentation": data.pick(SHAPES)}
            | {"keypoints": [i, i, 2, 0, 0, 0, 5, 5, 1], "num_keypoints": 2}
            for i in range(6)
        ],
    }
    example["categories"][0] |= {"keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]}
    example["categories"][0]["flip_pairs"] = [["a", "b"]]
    path = folder() / "annotations.json"
    if data.below(4):
        text = json.dumps(change_tree(example, data)).encode("utf-8", "surrogatepass")
    else:
        text = change_bytes(json.dumps(example).encode(), data)
    path.write_bytes(text)
    root = images()[0].parent
    with suppress(ValueError, OSError):
        source = Source("train", path, root, read_coco(path))
        report = check_sources([source], settings=None, workers=1, progress=False)
        json.dumps(report.as_record(), default=str)
        report.as_text(3).encode("utf-8", "backslashreplace")
        write_repaired(source, folder() / "repaired.json")
        repaired = Source("train", path, root, read_coco(folder() / "repaired.json"))
        again = check_sources([repaired], settings=None, workers=1, progress=False)
        # Where nothing but crowds is left there is no box to train on: not what a repair can mend.
        errors = [x for x in again.findings if x.severity == "error" and x.kind != "no_boxes"]
        if errors:
            raise AssertionError(f"errors are left after the repair: {errors[:3]}")
    with suppress(ValueError, OSError):
        quick_check("train", str(path), str(root), train=True)


def masks(content: bytes) -> None:
    """What passes the look at a data set before training can be read by training."""
    data = Bytes(content)
    needed = data.pick(["polygons", "keypoints"])
    example: dict = {
        "objects": [
            {"segmentation": shape, "keypoints": [i, i, 2, 0, 0, 0, 5, 5, 1], "num_keypoints": 2}
            for i, shape in enumerate(SHAPES)
        ],
        "categories": [
            {"keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]},
            {"keypoints": ["a", "b", "c"], "flip_pairs": [["a", "b"]]},
        ],
    }
    example = change_tree(example, data)
    entry = {"image_id": 1, "bbox": [1, 1, 10, 8.5], "area": 85.0, "iscrowd": 0}
    objects = example.get("objects", [])
    categories = example.get("categories", [])
    if not isinstance(objects, list) or not isinstance(categories, list):
        return
    whole = {
        "images": [{"id": 1, "file_name": images()[0].name, "height": 40, "width": 60}],
        "annotations": [
            {**(x if isinstance(x, dict) else {}), **entry, "id": i, "category_id": 1 + i % 2}
            for i, x in enumerate(objects)
        ],
        "categories": [
            {**(x if isinstance(x, dict) else {}), "id": i, "name": str(i)}
            for i, x in enumerate([*categories, {}, {}][:2], 1)
        ],
    }
    path = folder() / "masks.json"
    path.write_text(json.dumps(whole))
    try:
        quick_check(
            "train", str(path), str(images()[0].parent), train=True, needed=frozenset([needed])
        )
    except (ValueError, OSError):
        return
    annotations = read_annotations(path)
    if needed == "polygons":
        read_polygons(path, annotations)
    else:
        read_keypoints(path, annotations)


def labels(content: bytes) -> None:
    """Labels of YOLO's format: what is read of them can be checked and is finite."""
    data = Bytes(content)
    place = folder() / "yolo"
    place.mkdir(exist_ok=True)
    image = place / "a.png"
    if not image.exists():
        image.write_bytes(images()[0].read_bytes())
    described = {
        "train": ".",
        "names": ["cat", "dog"],
        "kpt_shape": data.pick([None, [2, 3], [2, 2]]),
        "flip_idx": data.pick([None, [1, 0], [0, 1]]),
        "kpt_names": data.pick([None, ["a", "b"], {0: ["a", "b"]}]),
    }
    described = {key: value for key, value in described.items() if value is not None}
    if not data.below(3):
        described = change_tree(described, Bytes(data.take(12)))
    (place / "data.yaml").write_text(json.dumps(described, default=str), "utf-8", "replace")
    lines = [
        *("0 0.5 0.5 0.2 0.2", "1 0.1 0.1 0.5 0.1 0.5 0.5", "0 0.5 0.5 0.1 0.1 0.5 0.5 2 0 0 0"),
        *("0 0.5 0.5 0.1 0.1 0.5 0.5 0 0", "1", "0 1e308 -1e308 inf nan", "", "x", "1.0 2 2 2 2"),
    ]
    text = "\n".join(data.pick(lines) for _ in range(data.below(6))).encode()
    (place / "a.txt").write_bytes(change_bytes(text, data))
    with suppress(ValueError, OSError):
        labelled = read_labelled(place, "train")
        for x in labelled.data["annotations"]:
            numbers = [*x["bbox"], x["area"], *x.get("keypoints", ())]
            numbers += [value for outline in x.get("segmentation", ()) for value in outline]
            assert np.isfinite(numbers).all() and len(x.get("keypoints", ())) % 3 == 0
        source = Source("train", place, labelled.image_root, labelled.data)
        check_sources([source], read_images=False)
        malformed = {x.kind for x in source.findings if x.kind.endswith("_malformed")}
        assert not malformed, malformed


def config(content: bytes) -> None:
    """Configuration files."""
    data = Bytes(content)
    lines = [
        *("MODEL:", "  YOLOR:", "    NUM_CLASSES: 3", "    ANCHORS: &a [[1, 2]]", "SEED: 1"),
        *("_BASE_: other.yaml", "_BASE_: config.yaml", "x: &x {a: 1}", "y: *x", "- a", "  <<: *x"),
        *(
            "!!python/object:os.system",
            "? [a]",
            ": b",
            "{a: {b: [",
            "]}}",
            "'",
            "VERSION: 1",
            "%YAML 9",
        ),
        *(
            "SOLVER: {BASE_LR: .nan}",
            "--- ",
            "...",
            "\t",
            "&a [*a]",
            "SEED: 1_0",
            "INPUT: {CROP: 1}",
        ),
    ]
    text = "\n".join(data.pick(lines) for _ in range(1 + data.below(6))).encode()
    path = folder() / "config.yaml"
    (folder() / "other.yaml").write_text("SEED: 5")
    path.write_bytes(change_bytes(text, data) if data.below(2) else text)
    with suppress(KeyError, ValueError, OSError):
        read_config(path)


@cache
def weight_files() -> list[bytes]:
    """A small file of each format."""
    state = {"model": {"a.weight": torch.rand(4, 3), "a.bias": torch.rand(4)}, "iteration": 3}
    files = [save_safetensors(state["model"])]
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        files.append(buffer.getvalue())
    files.append(struct.pack("<iiiq", 0, 2, 5, 64) + np.ones(64, np.float32).tobytes())  # darknet
    head = {"model.3.m.0.weight": torch.rand(18, 2, 1, 1), "model.3.m.0.bias": torch.rand(18)}
    layers = {"model.1.conv.weight": torch.rand(2, 2, 1, 1), **head}
    path = folder() / "authors.pt"
    named = with_anchors(layers, torch.ones(1, 3, 2), [8])
    files.append(save_authors_file(path, named, OF_A_RUN, ema=named).read_bytes())
    return files


def checkpoint(content: bytes) -> None:
    """Files of weights."""
    data = Bytes(content)
    path = folder() / data.pick(["a.pt", "a.pth", "a.safetensors", "a.weights"])
    path.write_bytes(change_bytes(data.pick(weight_files()), data))
    with suppress(WeightsFileError):
        read_weights(path)


def augmentation(content: bytes) -> None:
    """Samples of training: of the right size, with finite boxes inside of it."""
    data = Bytes(content)
    paths = images()
    items = []
    for i in range(1 + data.below(5)):
        path = data.pick(paths)
        height, width = cv2.imread(str(path)).shape[:2]
        annotations = [
            {
                "bbox": [data.real(-50, 350) for _ in range(4)],
                "bbox_mode": data.pick([BoxMode.XYWH_ABS, BoxMode.XYXY_ABS]),
                "category_id": data.below(3),
                "segmentation": [
                    [data.real(-50, 350) for _ in range(2 * data.pick([2, 3, 5]))]
                    for _ in range(data.below(3))
                ],
            }
            for _ in range(data.below(4))
        ]
        item = {"file_name": str(path), "image_id": i, "height": height, "width": width}
        items.append({**item, "annotations": annotations})
    augment = AugmentConfig(
        mosaic=data.real(0, 1),
        mosaic9=data.real(0, 1),
        mixup=data.real(0, 1),
        paste_in=data.real(0, 1),
        scale=data.real(0, 0.99),
        translate=data.real(0, 1),
        degrees=data.real(0, 180),
        shear=data.real(0, 45),
        perspective=data.real(0, 0.002),
        hsv=(data.real(0, 0.5), data.real(0, 1), data.real(0, 1)),
        flip_vertical=data.real(0, 1),
    )
    size = data.pick([32, 64, 96])
    dataset = TrainingDataset(
        GroundTruth.from_items(items, polygons=True),
        size=size,
        seed=data.below(2**31),
        augment=augment,
        with_polygons=True,
    )
    position, index = data.below(1000), data.below(len(items))
    polygons = dataset.compose(position, index).polygons
    if polygons is not None and len(polygons.points):
        assert (polygons.points >= 0).all() and (polygons.points <= size).all()
    sample = dataset[position, index]
    assert sample["image"].shape == (3, size, size) and sample["image"].dtype == torch.uint8
    boxes = sample["instances"].gt_boxes.tensor
    assert boxes.isfinite().all() and (boxes >= 0).all() and (boxes <= size).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "coco": coco,
    "labels": labels,
    "masks": masks,
    "config": config,
    "checkpoint": checkpoint,
    "augmentation": augmentation,
}
