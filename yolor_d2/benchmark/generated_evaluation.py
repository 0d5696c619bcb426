"""CPU seconds of COCO's metrics and of the report for generated detections, beside others.

Every image has about 7 objects, some of them crowd regions, and a number of detections, of which
60 % lie near an object; their classes spread more than those of a trained model. Nothing is drawn,
as there are no images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..d2.data import DatasetCatalog, MetadataCatalog, register_coco_instances
from ..d2.evaluation import DatasetEvaluator, StockCOCOEvaluator
from ..d2.structures import Boxes, Instances
from ..environment import describe_machine
from ..evaluation.coco_evaluator import COCOEvaluator
from ..evaluation.coco_files import RESULTS_NAME
from ..evaluation.coco_metrics import METRICS
from ..report.collect import Source, build_report
from ..report.files import to_json
from ..report.write import write_report
from .report import Report

SIZE = (480, 640)
NUM_CLASSES = 80
MEAN_OBJECTS = 7
# Of the detections; those near an object have its class with the second probability.
FRACTION_NEAR, FRACTION_RIGHT = 0.6, 0.7
FRACTION_CROWD = 0.01
# Images in a batch.
BATCH = 8
NAME = "generated"


def generate_objects(num_images: int, rng: np.random.Generator) -> dict:
    """Content of a COCO annotation file."""
    annotations = []
    for image in range(1, num_images + 1):
        for _ in range(rng.poisson(MEAN_OBJECTS)):
            size = np.exp(rng.uniform(math.log(8), math.log(300), 2))
            corner = rng.uniform(0, 1, 2) * (np.array(SIZE[::-1]) - size)
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image},
                    "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(0.7 * size.prod()),
                    "iscrowd": int(rng.random() < FRACTION_CROWD),
                }
            )
    height, width = SIZE
    return {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": width, "height": height}
            for i in range(1, num_images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, NUM_CLASSES + 1)],
    }


def generate_detections(
    truth: list[dict], number: int, rng: np.random.Generator
) -> dict[str, Instances]:
    """The output of a model for an image, best first."""
    boxes = np.concatenate([rng.uniform(0, 400, (number, 2)), rng.uniform(8, 150, (number, 2))], 1)
    labels = rng.integers(0, NUM_CLASSES, number)
    scores = rng.beta(1, 12, number)
    if truth:
        chosen = rng.integers(0, len(truth), number)
        near = rng.random(number) < FRACTION_NEAR
        objects = np.array([x["bbox"] for x in truth])[chosen]
        moved = objects + rng.normal(0, 0.12, (number, 4)) * np.tile(objects[:, 2:], 2)
        boxes[near] = moved[near]
        right = near & (rng.random(number) < FRACTION_RIGHT)
        labels[right] = np.array([x["category_id"] - 1 for x in truth])[chosen][right]
        scores[near] = rng.beta(2, 3, int(near.sum()))
    boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
    order = np.argsort(-scores)
    instances = Instances(SIZE, pred_boxes=Boxes(torch.from_numpy(boxes[order]).float()))
    instances.scores = torch.from_numpy(scores[order]).float()
    instances.pred_classes = torch.from_numpy(labels[order])
    return {"instances": instances}


def evaluate_with(evaluator: DatasetEvaluator, batches: list[tuple[list, list]]) -> dict:
    evaluator.reset()
    for inputs, outputs in batches:
        evaluator.process(inputs, outputs)
    return (evaluator.evaluate() or {})["bbox"]


def evaluate_with_pycocotools(annotations: Path, results: Path) -> dict:
    """As everybody uses it."""
    coco = COCO(str(annotations))
    done = COCOeval(coco, coco.loadRes(str(results)), "bbox")
    done.evaluate()
    done.accumulate()
    done.summarize()
    percent = [100 * x if x > -1 else math.nan for x in done.stats.tolist()]
    return dict(zip(METRICS["bbox"], percent))


def make_report(source: Source, path: Path) -> dict:
    report = to_json(build_report(source))
    assert isinstance(report, dict)
    write_report(report, path)
    return report["figures"]


@contextlib.contextmanager
def registered(folder: Path, data: dict) -> Iterator[Path]:
    """The annotation file of a data set that is known as long as this lasts."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    register_coco_instances(NAME, {}, str(path), str(folder))
    DatasetCatalog.get(NAME)
    try:
        yield path
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def run(args: argparse.Namespace) -> Report:
    """Measure evaluations of `args.generated` images with `args.detections` each."""
    rng = np.random.default_rng(0)
    data = generate_objects(args.generated, rng)
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for x in data["annotations"]:
        by_image[x["image_id"]].append(x)
    pairs = [
        ({"image_id": i}, generate_detections(truth, args.detections, rng))
        for i, truth in by_image.items()
    ]
    batches = [
        ([x for x, _ in pairs[i : i + BATCH]], [y for _, y in pairs[i : i + BATCH]])
        for i in range(0, len(pairs), BATCH)
    ]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        annotations = stack.enter_context(registered(folder, data))
        results = folder / "ours" / RESULTS_NAME
        source = Source(NAME, annotations, None, results)
        ways: dict[str, Callable[[], dict]] = {
            "figures": lambda: evaluate_with(
                COCOEvaluator(NAME, output_dir=str(results.parent)), batches
            ),
            "report with the metrics kept": lambda: make_report(source, folder / "report.json"),
            "pycocotools": lambda: evaluate_with_pycocotools(annotations, results),
        }
        if StockCOCOEvaluator is not None:
            ways["Detectron2's evaluator"] = lambda: evaluate_with(
                StockCOCOEvaluator(NAME, output_dir=str(folder / "stock")), batches
            )
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        by_way = {}
        for _ in range(args.rounds):
            for way, function in ways.items():
                start = time.process_time()
                with contextlib.redirect_stdout(io.StringIO()):
                    by_way[way] = function()
                seconds[way].append(time.process_time() - start)
    expected = by_way["pycocotools"]
    rows = [
        {
            "": way,
            "CPU s": statistics.median(seconds[way]),
            "AP": result["AP"],
            # Of the six metrics; NaN or None, where nothing counts, in both.
            "equal to 1e-9": all(
                result[x] is None or math.isnan(result[x])
                if math.isnan(expected[x])
                else abs((result[x] or 0.0) - expected[x]) <= 1e-9
                for x in METRICS["bbox"]
            ),
        }
        for way, result in by_way.items()
    ]
    settings = {
        "images": args.generated,
        "objects": len(data["annotations"]),
        "classes": NUM_CLASSES,
        "detections per image": args.detections,
        "rounds": args.rounds,
    }
    return Report("Evaluation of generated detections", settings, rows, describe_machine())
