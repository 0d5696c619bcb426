"""Facts about the names of `yolor_d2.d2`, which hold on either runtime.

Each function here works in a folder of its own and returns plain data. `record.py` writes those of
real Detectron2 to `golden.json`; `test_contract.py` compares.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import get_yolor_cfg, load_config
from yolor_d2.d2.checkpoint import DetectionCheckpointer
from yolor_d2.d2.config import CfgNode, configurable, get_cfg
from yolor_d2.d2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    ResizeShortestEdge,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_coco_json,
    register_coco_instances,
)
from yolor_d2.d2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    default_setup,
    hooks,
    launch,
)
from yolor_d2.d2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    verify_results,
)
from yolor_d2.d2.modeling import (
    META_ARCH_REGISTRY,
    Backbone,
    ShapeSpec,
    build_backbone,
    build_model,
    detector_postprocess,
)
from yolor_d2.d2.solver import maybe_add_gradient_clipping
from yolor_d2.d2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
)
from yolor_d2.d2.utils import EventStorage, comm, get_event_storage, has_event_storage
from yolor_d2.data.options import use_data
from yolor_d2.data.sampler import PositionSampler
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.toy import write_toy_dataset

FACTS: dict[str, Callable[[Path], Any]] = {}


def fact(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    FACTS[function.__name__] = function
    return function


def error_of(function: Callable, *args: Any, **kwargs: Any) -> str:
    """Name of the class of the error that a call raises."""
    try:
        function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        return type(error).__name__
    return "no error"


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    """(H, W, C) uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


# ---- Configuration


def flatten(node: CfgNode, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in sorted(node.items()):
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = repr(value)
    return flat


@fact
def default_config(folder: Path) -> dict:
    """Every key with its value and type."""
    return flatten(get_cfg())


@fact
def configuration(folder: Path) -> dict:
    """Bases, overrides, what is refused, copies, text."""
    (folder / "base.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nSEED: 3\n")
    (folder / "child.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9}\n")
    (folder / "wrong.yaml").write_text("SOLVER: {MAX_ITERS: 9}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "child.yaml"), allow_unsafe=False)
    cfg.merge_from_list(["DATASETS.TRAIN", "('a', 'b')", "SOLVER.GAMMA", "1.0", "OUTPUT_DIR", "x"])
    frozen = cfg.clone()
    frozen.freeze()
    return {
        "merged": [cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED],
        "list": [repr(cfg.DATASETS.TRAIN), repr(cfg.SOLVER.GAMMA), cfg.OUTPUT_DIR],
        "unknown in a file": error_of(cfg.merge_from_file, str(folder / "wrong.yaml")),
        "unknown in a list": error_of(cfg.merge_from_list, ["SOLVER.X", "1"]),
        "wrong type": error_of(cfg.merge_from_list, ["SOLVER.MAX_ITER", "many"]),
        "frozen": error_of(setattr, frozen, "SEED", 1),
        "copy is separate": [cfg.is_frozen(), frozen.is_frozen(), get_cfg().SEED],
        "dump": cfg.SOLVER.dump(),
        "node": CfgNode({"A": {"B": (1, 2)}}).dump(),
    }


@fact
def dumped_config(folder: Path) -> dict:
    """A written configuration can be read back over the defaults; inner tuples become lists."""
    cfg = get_yolor_cfg()
    (folder / "config.yaml").write_text(cfg.dump())
    cfg.merge_from_file(str(folder / "config.yaml"), allow_unsafe=False)
    before, after = flatten(get_yolor_cfg()), flatten(cfg)
    return {"changed": {key: after[key] for key in before if before[key] != after[key]}}


class Configured:
    @configurable
    def __init__(self, *, a, b=2, c=3):
        self.values = [a, b, c]

    @classmethod
    def from_config(cls, cfg, b):
        return {"a": cfg.SEED, "b": b * 10}


class ConfiguredChild(Configured):
    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {"a": "child", **kwargs}


class NotConfigured:
    @configurable
    def __init__(self, *, a):
        self.a = a


@fact
def construction(folder: Path) -> dict:
    cfg = get_cfg()
    return {
        "plain": Configured(a=1).values,
        "positional": Configured(cfg, 5).values,
        "keywords": Configured(cfg=cfg, b=5).values,
        "beside from_config": Configured(cfg, b=5, c=7).values,
        "child": ConfiguredChild(cfg, c=8).values,
        "no from_config": error_of(NotConfigured, cfg),
        "missing": error_of(Configured),
    }


# ---- Structures


@fact
def boxes(folder: Path) -> dict:
    four = torch.tensor([[0, 0, 10, 20], [-5, 3, 7, 90], [4, 4, 4, 9], [1, 2, 3, 4]])
    value = Boxes(four)
    clipped, scaled = Boxes(four.float()), Boxes(four.float())
    clipped.clip((50, 6))
    scaled.scale(2.0, 0.5)
    return {
        "dtype": [str(value.tensor.dtype), str(value.device)],
        "length": [len(value), len(Boxes(torch.zeros(0))), list(Boxes([]).tensor.shape)],
        "area": value.area().tolist(),
        "clip": clipped.tensor.tolist(),
        "scale": scaled.tensor.tolist(),
        "nonempty": [value.nonempty().tolist(), value.nonempty(5.0).tolist()],
        "index": [value[i].tensor.tolist() for i in (1, -1, slice(1, 3), value.nonempty())],
        "iteration": [row.tolist() for row in value],
        "cat": Boxes.cat([value[0], value[2]]).tensor.tolist(),
        "cat of none": list(Boxes.cat([]).tensor.shape),
        "not finite": error_of(Boxes(torch.full((1, 4), math.nan)).clip, (5, 5)),
        "wrong shape": error_of(Boxes, torch.zeros(2, 5)),
    }


@fact
def box_modes(folder: Path) -> dict:
    xyxy, xywh = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
    array = np.array([[1.1, 2.0, 3.3, 4.0]])
    tensor = torch.tensor([[1, 2, 3, 4]])
    before = array.copy()
    return {
        "values": [int(xyxy), int(xywh)],
        "list": BoxMode.convert([1.1, 2, 3.3, 4], xyxy, xywh),
        "tuple": repr(BoxMode.convert((1, 2, 3, 4), xywh, xyxy)),
        "array": BoxMode.convert(array, xywh, xyxy).tolist(),
        "array dtype": str(BoxMode.convert(array, xywh, xyxy).dtype),
        "tensor": BoxMode.convert(tensor, xyxy, xywh).tolist(),
        "same": BoxMode.convert(array, xyxy, xyxy).tolist(),
        "input is kept": bool((array == before).all()),
    }


def some_instances() -> Instances:
    found = Instances((30, 40), scores=torch.tensor([0.9, 0.5, 0.1]))
    found.pred_boxes = Boxes(torch.arange(12).reshape(3, 4))
    found.names = ["a", "b", "c"]
    return found


@fact
def instances(folder: Path) -> dict:
    found = some_instances()
    chosen = {
        "mask": found.scores > 0.3,
        "numbers": torch.tensor([2, 0]),
        "slice": slice(1, None),
        "last": -1,
    }
    # A list cannot be indexed with a tensor.
    tensors = some_instances()
    tensors.remove("names")
    several = {
        name: (tensors if isinstance(item, torch.Tensor) else found)[item]
        for name, item in chosen.items()
    }
    joined = Instances.cat([found, found[:1]])
    other = Instances((1, 1), scores=torch.zeros(1))
    return {
        "fields": sorted(found.get_fields()),
        "chosen": {name: x.scores.tolist() for name, x in several.items()},
        "boxes": several["mask"].pred_boxes.tensor.tolist(),
        "names": several["slice"].names,
        "length": [len(found), found.has("names"), found.has("other"), list(found.image_size)],
        "cat": [len(joined), joined.names, joined.pred_boxes.tensor.tolist()],
        "moved": found.to("cpu").scores.tolist(),
        "wrong length": error_of(found.set, "other", [1]),
        "unknown": error_of(lambda: found.other),
        "out of range": error_of(lambda: found[3]),
        "no fields": error_of(lambda: len(Instances((1, 1)))),
        "iteration": error_of(lambda: iter(found)),
        "sizes differ": error_of(Instances.cat, [found, other]),
    }


@fact
def postprocess(folder: Path) -> dict:
    corners = [[1, 2, 30, 20], [10, 10, 60, 50], [45, 3, 60, 9], [5, 5, 5, 9]]
    found = Instances((32, 48), scores=torch.tensor([0.9, 0.8, 0.7, 0.6]))
    found.pred_boxes = Boxes(torch.tensor(corners))
    scaled = detector_postprocess(found, 64, 60)
    outside = Instances((8, 8), pred_boxes=Boxes(torch.tensor([[9.0, 9.0, 12.0, 12.0]])))
    return {
        "size": list(scaled.image_size),
        "boxes": scaled.pred_boxes.tensor.tolist(),
        "scores": scaled.scores.tolist(),
        "all outside": len(detector_postprocess(outside, 16, 16)),
    }


# ---- Models


class Corner(Backbone):
    def forward(self, x):
        return {"c": x[:, :, :1, :1]}

    def output_shape(self):
        return {"c": ShapeSpec(channels=3, stride=8)}


@META_ARCH_REGISTRY.register()
class ContractModel(nn.Module):
    """A model that tells what it was given; in training its only weight is drawn to 0."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("pixel_mean", torch.zeros(1))
        self.loss = cfg.SOLVER.GAMMA

    def forward(self, batch):
        if not self.training:
            return [{"instances": x} for x in batch]
        total = self.weight.square().sum()
        return {"loss_a": total * self.loss, "loss_b": sum(x["value"] for x in batch) + 0 * total}


@fact
def models(folder: Path) -> dict:
    cfg = load_config("yolor_ssss_s2d.yaml", ["MODEL.DEVICE", "cpu"])
    backbone = build_backbone(cfg)
    unknown = get_cfg()
    unknown.MODEL.META_ARCHITECTURE = "NoSuchModel"
    return {
        "shapes": {name: repr(shape) for name, shape in backbone.output_shape().items()},
        "divisor": [backbone.size_divisibility, Corner().size_divisibility],
        "device": str(next(build_model(cfg).parameters()).device),
        "equal": ShapeSpec(channels=3, stride=8) == ShapeSpec(channels=3, stride=8),
        "unknown": error_of(build_model, unknown),
    }


# ---- Data


@fact
def catalogues(folder: Path) -> dict:
    DatasetCatalog.register("contract/plain", lambda: [{"file_name": "a"}])
    MetadataCatalog.get("contract/plain").set(thing_classes=["x"], other=1)
    metadata = MetadataCatalog.get("contract/plain")
    return {
        "load": DatasetCatalog.get("contract/plain"),
        "listed": "contract/plain" in DatasetCatalog.list(),
        "get": [metadata.thing_classes, metadata.get("none"), metadata.get("none", 5)],
        "as_dict": metadata.as_dict(),
        "twice": error_of(DatasetCatalog.register, "contract/plain", list),
        "unknown": error_of(DatasetCatalog.get, "contract/none"),
        "other value": error_of(metadata.set, other=2),
        "same value": error_of(metadata.set, other=1),
        "no attribute": error_of(lambda: metadata.none),
        "without annotations": get_detection_dataset_dicts(["contract/plain"]),
        "no names": error_of(get_detection_dataset_dicts, []),
    }


@fact
def coco_names(folder: Path) -> dict:
    """The data sets that are there from the start."""
    root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "")
    found = {}
    for name in ("coco_2017_train", "coco_2017_val"):
        metadata = MetadataCatalog.get(name)
        found[name] = {
            "listed": name in DatasetCatalog.list(),
            "json_file": metadata.json_file.removeprefix(root),
            "image_root": metadata.image_root.removeprefix(root),
            "evaluator_type": metadata.evaluator_type,
            "classes": metadata.thing_classes,
            "ids": [[*pair] for pair in metadata.thing_dataset_id_to_contiguous_id.items()],
        }
    return found


def write_coco(folder: Path, name: str = "coco.json", **changes: Any) -> Path:
    """Annotations with gaps between ids, a crowd, images out of order, and odd segmentations."""
    rle = {"size": [20, 30], "counts": [0, 4, 596]}
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 90, "bbox": [0.5, 0, 8.25, 9], "iscrowd": 0,
         "segmentation": square, "area": 16},
        {"id": 3, "image_id": 4, "category_id": 2, "bbox": [0, 0, 4, 1], "iscrowd": 1,
         "segmentation": rle},
        {"id": 4, "image_id": 12, "category_id": 2, "bbox": [1, 1, 2, 2], "iscrowd": 0,
         "segmentation": [[1, 1, 2, 2]]},
        {"id": 5, "image_id": 12, "category_id": 7, "bbox": [3, 3, 2, 2], "segmentation": []},
    ]  # fmt: skip
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (9, 4, 12, 5)
        ],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "c"}, {"id": 2, "name": "a"}, {"id": 7, "name": "b"}],
    }
    path = folder / name
    path.write_text(json.dumps(content | changes))
    return path


@fact
def coco_mapping(folder: Path) -> dict:
    register_coco_instances("contract/coco", {}, str(write_coco(folder)), "images")
    items = DatasetCatalog.get("contract/coco")
    for item in items:
        for annotation in item["annotations"]:
            if isinstance(annotation.get("segmentation"), dict):
                counts = annotation["segmentation"]["counts"]
                annotation["segmentation"]["counts"] = bytes(counts).decode()
    metadata = MetadataCatalog.get("contract/coco")
    kept = {
        str(empty): [x["image_id"] for x in get_detection_dataset_dicts(["contract/coco"], empty)]
        for empty in (True, False)
    }
    box = {"image_id": 9, "bbox": [1, 1, 1, 1]}
    wrong = {
        "unknown category": [{**box, "id": 1, "category_id": 3}],
        "two of one id": [{**box, "id": 1, "category_id": 2}] * 2,
        "empty bbox": [{**box, "id": 1, "category_id": 2, "bbox": []}],
        "ignore": [{**box, "id": 1, "category_id": 2, "ignore": 1}],
    }
    errors = {}
    for i, (name, content) in enumerate(wrong.items()):
        path = write_coco(folder, f"{i}.json", annotations=content)
        register_coco_instances(f"contract/{i}", {}, str(path), "images")
        errors[name] = error_of(DatasetCatalog.get, f"contract/{i}")
    return {
        "items": items,
        "types": sorted({type(a["bbox_mode"]).__name__ for x in items for a in x["annotations"]}),
        "classes": metadata.thing_classes,
        "ids": [[*pair] for pair in metadata.thing_dataset_id_to_contiguous_id.items()],
        "filter_empty": kept,
        "errors": errors,
    }


class Positions(Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, key):
        return list(key)


@fact
def loader_order(folder: Path) -> dict:
    """Order of batches, whatever the number of workers."""
    found = {}
    for workers in (0, 1, 2):
        sampler = PositionSampler(7, seed=3, start=4)
        loader = build_detection_train_loader(
            Positions(),
            mapper=None,
            sampler=sampler,
            total_batch_size=3,
            aspect_ratio_grouping=False,
            num_workers=workers,
        )
        batches = iter(loader)
        found[f"training, {workers} workers"] = [next(batches) for _ in range(8)]
        items = [{"number": i} for i in range(5)]
        loader = build_detection_test_loader(
            items, mapper=lambda item: {**item, "mapped": True}, num_workers=workers
        )
        found[f"evaluation, {workers} workers"] = [len(loader), list(loader)]
    return found


@fact
def dataset_from_list(folder: Path) -> dict:
    items = [{"a": [i]} for i in range(4)]
    data = DatasetFromList(items, copy=False)
    data[1]["a"].append(9)
    return {"length": len(data), "items": [data[i] for i in range(len(data))]}


@fact
def resize(folder: Path) -> dict:
    def size(height: int, width: int, short: int, longest: int) -> list[int]:
        transform = ResizeShortestEdge([short, short], longest).get_transform(
            np.zeros((height, width, 3), np.uint8)
        )
        return [transform.new_h, transform.new_w]

    sides = (1, 7, 50, 64, 96, 100, 333, 479, 480, 640)
    image = pixels(37, 53)
    made = {}
    for short in (16, 90):
        smaller = ResizeShortestEdge([short, short], 100).get_transform(image).apply_image(image)
        made[str(short)] = [list(smaller.shape), str(smaller.dtype), checksum(smaller)]
    np.random.seed(5)
    drawn = [ResizeShortestEdge([20, 40], 99).get_transform(image).new_h for _ in range(5)]
    return {
        "sizes": [size(h, w, 64, 64) for h in sides for w in sides],
        "other sizes": [size(h, w, 800, 1333) for h in sides for w in sides],
        "pixels": made,
        "drawn": drawn,
    }


# ---- Evaluation


@fact
def expected_results(folder: Path) -> dict:
    cfg = get_cfg()
    results = {"bbox": {"AP": 30.5}}
    answers = {}
    for tolerance in (1.0, 0.1):
        cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 31.0, tolerance]]
        answers[str(tolerance)] = error_of(verify_results, cfg, results)
    cfg.TEST.EXPECTED_RESULTS = []
    return {"answers": answers, "none": verify_results(cfg, results)}


# ---- Events


@fact
def event_storage(folder: Path) -> dict:
    outside = [has_event_storage(), error_of(get_event_storage)]
    with EventStorage(10) as storage:
        inside = [has_event_storage(), get_event_storage() is storage]
        for i in range(30):
            storage.iter = 10 + i
            storage.put_scalar("noisy", (i * 7) % 11)
            if i % 8 == 0:
                storage.put_scalars(rare=i, smoothing_hint=False)
                storage.put_scalar("rare/noisy", float(i))
        other_hint = error_of(storage.put_scalar, "rare", 1.0)
        return {
            "outside": outside,
            "inside": inside,
            "latest": {k: list(v) for k, v in storage.latest().items()},
            "smooth": {k: list(v) for k, v in storage.latest_with_smoothing_hint(20).items()},
            "history": [storage.history("rare").values(), storage.history("noisy").latest()],
            "names": sorted(storage.histories()),
            "other hint": other_hint,
            "unknown": error_of(storage.history, "none"),
        }


# ---- Training


class Recorder(HookBase):
    def __init__(self, name: str, calls: list):
        self.name, self.calls = name, calls

    def note(self, method: str) -> None:
        self.calls.append([self.name, method, self.trainer.iter, self.trainer.storage.iter])

    def before_train(self):
        self.note("before_train")

    def after_train(self):
        self.note("after_train")

    def before_step(self):
        self.note("before_step")

    def after_step(self):
        self.note("after_step")


class First(Recorder):
    def state_dict(self):
        return {"kept": self.name}

    def load_state_dict(self, state):
        self.calls.append(["loaded", state["kept"]])


class ContractTrainer(Trainer):
    """Our trainer on a model of one weight, without data files."""

    recorders: tuple = ()
    # Without another data loader after it.
    resume_or_load = DefaultTrainer.resume_or_load

    def build_hooks(self):
        return [
            *self.recorders,
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            hooks.EvalHook(2, self.evaluate),
            hooks.PeriodicCheckpointer(self.checkpointer, 3),
            hooks.PeriodicWriter(self.build_writers(), period=2),
        ]

    def evaluate(self):
        return {"bbox": {"AP": self.iter, "AP-a": 1.5}, "single": 2}

    @classmethod
    def build_train_loader(cls, cfg):
        return [[{"value": torch.tensor(float(i))}] for i in range(40)]


def small_config(folder: Path) -> CfgNode:
    cfg = get_yolor_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ContractModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(folder / "run")
    cfg.SOLVER.MAX_ITER = 5
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.GAMMA = 1.0
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    return cfg


def layout(value: Any) -> Any:
    """Structure of a checkpoint: names, types, shapes."""
    if isinstance(value, dict):
        return {str(key): layout(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)} {value.dtype}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return [layout(item) for item in value]
    return type(value).__name__


@fact
def training_loop(folder: Path) -> dict:
    """Hooks' calls, files, metrics, checkpoints, and resuming."""
    calls: list = []
    ContractTrainer.recorders = (First("one", calls), Recorder("two", calls), None)
    cfg = small_config(folder)
    trainer = ContractTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    run = Path(cfg.OUTPUT_DIR)
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    timing = ("time", "data_time", "rank_data_time", "eta_seconds")
    saved = torch.load(run / "model_final.pth", weights_only=True)
    first_calls = [*calls]
    calls.clear()
    cfg.SOLVER.MAX_ITER = 7
    again = ContractTrainer(cfg)
    again.resume_or_load(resume=True)
    resumed = [again.iter, again.start_iter, again.max_iter, again.model.weight.tolist()]
    again.train()
    return {
        "calls": first_calls,
        "files": sorted(path.name.split(".tfevents")[0] for path in run.iterdir()),
        "last": (run / "last_checkpoint").read_text(),
        "rows": [{k: v for k, v in row.items() if k not in timing} for row in rows],
        "timing": [sorted(row.keys() & set(timing)) for row in rows],
        "lr": trainer.storage.history("lr").values(),
        "timed": len(trainer.storage.history("time").values()),
        "layout": layout(saved),
        "iterations": [saved["iteration"], saved["trainer"]["iteration"]],
        "weight": saved["model"]["weight"].tolist(),
        "resumed": resumed,
        "resumed calls": calls,
        "resumed weight": again.model.weight.tolist(),
    }


@fact
def tensorboard_files(folder: Path) -> dict:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ContractTrainer.recorders = ()
    cfg = small_config(folder)
    ContractTrainer(cfg).train()
    (path,) = Path(cfg.OUTPUT_DIR).glob("events.out.tfevents.*")
    events = EventAccumulator(str(path))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [x.step for x in events.Scalars(tag)] for tag in sorted(tags)}


@fact
def learning_rates(folder: Path) -> dict:
    """30 iterations of our schedule, stepped by the hook."""
    ContractTrainer.recorders = ()
    cfg = small_config(folder)
    cfg.SOLVER.MAX_ITER = 30
    cfg.SOLVER.WARMUP_ITERS = 10
    trainer = ContractTrainer(cfg)
    trainer.train()
    return {"lr": [value for value, _ in trainer.storage.history("lr").values()]}


@fact
def failures(folder: Path) -> dict:
    """A loss that is not finite stops before the step; hooks still end."""
    calls: list = []
    ContractTrainer.recorders = (Recorder("one", calls),)
    cfg = small_config(folder)
    cfg.SOLVER.GAMMA = math.nan
    trainer = ContractTrainer(cfg)
    return {
        "error": error_of(trainer.train),
        "weight": trainer.model.weight.tolist(),
        "calls": calls,
        "files": sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("*.pth")),
    }


class TrainerWithoutFiles(Trainer):
    def build_writers(self):
        return []


@fact
def hooks_of_our_trainer(folder: Path) -> dict:
    toy = write_toy_dataset(folder / "toy", num_train=4, num_val=2, image_size=(96, 96))
    cfg = load_config("quick/ssss_320_cpu.yaml")
    use_data(
        cfg,
        (str(toy.train_json), str(toy.train_images)),
        (str(toy.val_json), str(toy.val_images)),
    )
    register_datasets(cfg)
    cfg.OUTPUT_DIR = str(folder / "run")
    trainer = TrainerWithoutFiles(cfg)
    return {
        "hooks": [type(hook).__name__ for hook in trainer._hooks],
        "trainer": type(trainer._trainer).__name__,
        "training": trainer.model.training,
    }


@fact
def gradient_clipping(folder: Path) -> dict:
    found = {}
    for kind in ("value", "norm"):
        cfg = get_cfg()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 2.0
        weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
        weights[0].grad, weights[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([1.0])
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)(weights, lr=1.0)
        optimizer.step()
        found[kind] = [weight.tolist() for weight in weights]
        found[f"{kind} is SGD"] = isinstance(optimizer, torch.optim.SGD)
    found["off"] = maybe_add_gradient_clipping(get_cfg(), torch.optim.SGD) is torch.optim.SGD
    return found


# ---- Checkpoints, predictor, process


@fact
def checkpointer(folder: Path) -> dict:
    model = ContractModel(get_cfg())
    saver = DetectionCheckpointer(model, str(folder), other=nn.Linear(1, 1))
    saver.save("one", iteration=3)
    saved = torch.load(folder / "one.pth", weights_only=True)
    torch.save({"weight": torch.tensor([5.0, 6.0])}, folder / "bare.pth")
    rest = DetectionCheckpointer(model).load(str(folder / "bare.pth"))
    bare = model.weight.tolist()
    torch.save({"model": {"weight": torch.zeros(3), "new": torch.zeros(1)}}, folder / "odd.pth")
    DetectionCheckpointer(model).load(str(folder / "odd.pth"))
    ours = YOLORCheckpointer(model, strict=True)
    silent = DetectionCheckpointer(model, str(folder / "none"), save_to_disk=False)
    silent.save("never")
    return {
        "layout": layout(saved),
        "has": [saver.has_checkpoint(), DetectionCheckpointer(model).has_checkpoint()],
        "last": os.path.basename(saver.get_checkpoint_file()),
        "bare": [bare, sorted(rest)],
        "wrong shape is skipped": model.weight.tolist(),
        "constants may be missing": error_of(ours.load, str(folder / "bare.pth")),
        "strict": error_of(ours.load, str(folder / "odd.pth")),
        "nothing": DetectionCheckpointer(model).load(""),
        "not written": (folder / "none").exists(),
    }


@fact
def predictor(folder: Path) -> dict:
    """What the model gets from an image of uint8 BGR."""
    cfg = small_config(folder)
    model = build_model(cfg)
    model.weight.data += 1
    YOLORCheckpointer(model, str(folder)).save("weights")
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 64
    found = {}
    for order in ("RGB", "BGR"):
        cfg.INPUT.FORMAT = order
        stock = DefaultPredictor(cfg)
        given = stock(pixels(48, 80))["instances"]
        image = given["image"]
        found[order] = {
            "image": [list(image.shape), str(image.dtype), checksum(image.numpy())],
            "size": [given["height"], given["width"]],
            "keys": sorted(given),
            "weight": stock.model.weight.tolist(),
            "training": stock.model.training,
        }
    cfg.INPUT.FORMAT = "HSV"
    return {**found, "unknown order": error_of(DefaultPredictor, cfg)}


@fact
def processes(folder: Path) -> dict:
    return {
        "launch": error_of(launch, int, 1, args=("7",)),
        "processes": [comm.get_rank(), comm.get_world_size(), comm.is_main_process()],
    }


@fact
def setup(folder: Path) -> dict:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder / "a" / "b")
    cfg.SEED = 11
    default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
    written = CfgNode.load_cfg((folder / "a" / "b" / "config.yaml").read_text())
    return {
        "torch": torch.rand(3).tolist(),
        "numpy": np.random.rand(2).tolist(),
        "files": sorted(path.name for path in (folder / "a" / "b").iterdir()),
        "config": written.SEED,
    }


@fact
def extra_annotation_keys(folder: Path) -> dict:
    """Keys beyond Detectron2's own come through where they are requested and present."""
    box = {"image_id": 9, "category_id": 2, "bbox": [1, 1, 1, 1]}
    path = write_coco(folder, annotations=[{**box, "id": 1, "who": 5}, {**box, "id": 2}])
    items = {
        str(keys): load_coco_json(str(path), "images", f"contract/extra/{keys}", keys)
        for keys in (None, ["who"])
    }
    return {
        keys: [a.get("who", "none") for x in found for a in x["annotations"]]
        for keys, found in items.items()
    }


class Counts(DatasetEvaluator):
    """Counts outputs under the name of a task."""

    def __init__(self, task: str):
        self.task = task

    def reset(self) -> None:
        self.count = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.count += len(outputs)

    def evaluate(self) -> dict:
        return {self.task: {"count": self.count}}


@fact
def joined_evaluators(folder: Path) -> dict:
    answers = {}
    for tasks in (["a", "b"], ["a", "a"]):
        joined = DatasetEvaluators([Counts(task) for task in tasks])
        joined.reset()
        joined.process([{}] * 3, [{}] * 3)
        answers[str(tasks)] = joined.evaluate() if len({*tasks}) == 2 else error_of(joined.evaluate)
    return answers


SQUARE = np.array([1, 1, 5, 1, 5, 5, 1, 5])
TRIANGLE = torch.tensor([6.5, 2, 9, 2, 9, 8])


@fact
def polygon_masks(folder: Path) -> dict:
    masks = PolygonMasks([[SQUARE], [TRIANGLE, SQUARE], []])
    chosen = {
        "int": masks[1],
        "slice": masks[1:],
        "list": masks[[2, 0]],
        "bool": masks[torch.tensor([True, False, True])],
        "numbers": masks[torch.tensor([1, 1])],
        "cat": PolygonMasks.cat([masks, masks[:1]]),
        "to": masks.to("cpu"),
    }
    wrong = {
        "no list": SQUARE,
        "no lists": [SQUARE],
        "two points": [[SQUARE[:4]]],
        "odd": [[SQUARE[:7]]],
    }
    return {
        "polygons": {
            key: [[x.tolist() for x in parts] for parts in value.polygons]
            for key, value in chosen.items()
        },
        "iterated": [[x.tolist() for x in parts] for parts in masks],
        "type": str(masks.polygons[1][0].dtype),
        "device": str(masks.device),
        "nonempty": masks.nonempty().tolist(),
        "bounds": masks.get_bounding_boxes().tensor.nan_to_num(posinf=-1).tolist(),
        "area": masks.area().tolist(),
        "text": repr(masks),
        "errors": {key: error_of(PolygonMasks, value) for key, value in wrong.items()},
    }


@fact
def bit_masks(folder: Path) -> dict:
    masks = BitMasks(np.array([[[0, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools is older than numpy 2
        drawn = BitMasks.from_polygon_masks(PolygonMasks([[SQUARE], [TRIANGLE, SQUARE], []]), 6, 9)
    none = BitMasks.from_polygon_masks([], 6, 9)
    return {
        "type": str(masks.tensor.dtype),
        "size": list(masks.image_size),
        "length": len(masks),
        "int": masks[0].tensor.tolist(),
        "bool": masks[torch.tensor([False, True])].tensor.tolist(),
        "cat": list(BitMasks.cat([masks, masks[1:]]).tensor.shape),
        "iterated": [x.tolist() for x in masks],
        "nonempty": masks.nonempty().tolist(),
        "bounds": masks.get_bounding_boxes().tensor.tolist(),
        "drawn": drawn.tensor.int().tolist(),
        "none": list(none.tensor.shape),
        "device": str(masks.to("cpu").device),
        "text": repr(masks),
        "error": error_of(BitMasks, torch.zeros(2, 3)),
    }


@fact
def keypoints(folder: Path) -> dict:
    points = Keypoints(np.arange(12).reshape(2, 2, 3))
    return {
        "type": str(points.tensor.dtype),
        "length": len(points),
        "list": Keypoints([[[1, 2, 3]]]).tensor.tolist(),
        "slice": points[:1].tensor.tolist(),
        "bool": points[torch.tensor([False, True])].tensor.tolist(),
        "cat": Keypoints.cat([points, points[:1]]).tensor.tolist(),
        "device": str(points.to("cpu").device),
        "text": repr(points),
        "error": error_of(Keypoints, torch.zeros(2, 3)),
        "in instances": Instances((4, 4), gt_keypoints=points)[1].gt_keypoints.tensor.tolist(),
    }


@fact
def coco_keypoints(folder: Path) -> dict:
    """Numbers of pixels become coordinates; other objects have none."""
    entries = [
        {"id": 1, "image_id": 9, "bbox": [1, 1, 4, 4], "category_id": 2, "iscrowd": 0, **more}
        for more in ({"keypoints": [3, 4, 2, 0, 0, 0]}, {"keypoints": []}, {})
    ]
    entries = [{**entry, "id": i} for i, entry in enumerate(entries)]
    register_coco_instances(
        "contract/keypoints", {}, str(write_coco(folder, "k.json", annotations=entries)), "images"
    )
    items = DatasetCatalog.get("contract/keypoints")
    listed = {
        name: [MetadataCatalog.get(name).json_file, list(MetadataCatalog.get(name).thing_classes)]
        for name in ("keypoints_coco_2017_train", "keypoints_coco_2017_val")
    }
    return {
        "keypoints": [a.get("keypoints", "none") for x in items for a in x["annotations"]],
        "data sets": {
            name: [file.rpartition("coco/")[2], names] for name, (file, names) in listed.items()
        },
    }
