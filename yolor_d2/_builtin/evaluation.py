"""Evaluators: COCO's figures for boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from fvcore.common.config import CfgNode
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import nn

from .catalog import MetadataCatalog
from .coco import read_coco
from .structures import BoxMode, Instances

logger = logging.getLogger(__name__)

# The figures of `COCOeval.stats` that are reported, in its order.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class DatasetEvaluator:
    """Collects outputs of a model batch by batch, then turns them into figures."""

    def reset(self) -> None:
        """Forget all outputs."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch and what the model made of it."""

    def evaluate(self) -> dict | None:
        """Figures by task and name."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one.

    Args:
        evaluators: their tasks must differ.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        self.evaluators = list(evaluators)

    def reset(self) -> None:
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        """Figures of all, by task and name."""
        results = {}
        for evaluator in self.evaluators:
            for task, figures in (evaluator.evaluate() or {}).items():
                if task in results:
                    raise AssertionError(f"two evaluators give figures of the task {task!r}")
                results[task] = figures
        return results


def to_json(instances: Instances, image_id: int) -> list[dict]:
    """Detections of one image as COCO's records, with boxes as x, y, width, height."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist()
        )
    ]


class COCOEvaluator(DatasetEvaluator):
    """COCO's average precision of boxes.

    Args:
        dataset_name: its metadata name an annotation file in COCO's format.
        output_dir: folder for `coco_instances_results.json` and `instances_predictions.pth`; None
            writes nothing.

    Raises:
        NotImplementedError: when the data set has no annotation file.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_dir = output_dir
        self.predictions: list[dict] = []
        if self.metadata.get("json_file") is None:
            raise NotImplementedError(
                f"data set {dataset_name!r} was not registered with an annotation file; the "
                "built-in runtime does not write one"
            )
        self.coco = read_coco(self.metadata.json_file)

    def reset(self) -> None:
        self.predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for given, found in zip(inputs, outputs):
            instances = found["instances"].to("cpu")
            others = sorted({"pred_masks", "pred_keypoints"} & instances.get_fields().keys())
            if others:
                raise NotImplementedError(
                    f"the built-in runtime evaluates boxes only, not {others}"
                )
            records = to_json(instances, given["image_id"])
            self.predictions.append({"image_id": given["image_id"], "instances": records})

    def evaluate(self) -> dict:
        """The task "bbox" with METRICS and the AP of each class, in percent; {} without images."""
        if not self.predictions:
            logger.warning("The evaluator got no predictions.")
            return {}
        results = self.original_ids(itertools.chain(*(x["instances"] for x in self.predictions)))
        if self.output_dir:
            os.makedirs(self.output_dir, exist_ok=True)
            torch.save(self.predictions, os.path.join(self.output_dir, "instances_predictions.pth"))
            path = os.path.join(self.output_dir, "coco_instances_results.json")
            logger.info("Saving results to %s", path)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(results, file)
        if "annotations" not in self.coco.dataset:
            logger.info("There are no annotations to evaluate with.")
            return {}
        return {"bbox": self.figures(evaluate_boxes(self.coco, results) if results else None)}

    def original_ids(self, records: Iterable[dict]) -> list[dict]:
        """Records with the category ids of the annotation file in place of class numbers."""
        numbers = self.metadata.get("thing_dataset_id_to_contiguous_id")
        if numbers is None:
            return [*records]
        ids = {number: category for category, number in numbers.items()}
        return [{**record, "category_id": ids[record["category_id"]]} for record in records]

    def figures(self, done: COCOeval | None) -> dict[str, float]:
        """Figures in percent, NaN where there is nothing to count; also written to the log."""
        if done is None:
            logger.warning("The model found nothing.")
            return dict.fromkeys(METRICS, math.nan)
        percent = [100 * x if x >= 0 else math.nan for x in done.stats[: len(METRICS)].tolist()]
        figures = dict(zip(METRICS, percent))
        table = tabulate([percent], METRICS, "pipe", floatfmt=".3f", stralign="center")
        logger.info("Figures of bbox in percent:\n%s", table)
        if not all(map(math.isfinite, percent)):
            logger.info("NaN stands for figures without any object to count.")
        names = self.metadata.get("thing_classes")
        if names is None or len(names) <= 1:
            return figures
        by_class = dict(zip(names, class_precisions(done), strict=True))
        logger.info("AP of bbox by category:\n%s", class_table(by_class))
        return {**figures, **{f"AP-{name}": value for name, value in by_class.items()}}


def evaluate_boxes(coco, results: list[dict]) -> COCOeval:
    """Match detections with the ground truth and sum up."""
    logger.info("Evaluating predictions with pycocotools ...")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # pycocotools writes into the records.
        done = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        done.evaluate()
        done.accumulate()
        done.summarize()
    logger.info("%s", printed.getvalue())
    return done


def class_precisions(done: COCOeval) -> list[float]:
    """Average precision of each class in percent, over all sizes, at 100 detections per image."""
    precisions = done.eval["precision"][:, :, :, 0, -1]  # (T thresholds, R recalls, K)
    valid = [p[p > -1] for p in np.moveaxis(precisions, 2, 0)]  # -1 where a class has no object
    return [float(100 * p.mean()) if p.size else math.nan for p in valid]


def class_table(by_class: dict[str, float], pairs_per_row: int = 3) -> str:
    cells = [cell for item in by_class.items() for cell in item]
    width = 2 * min(pairs_per_row, len(by_class))
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return tabulate(rows, ["category", "AP"] * (width // 2), "pipe", floatfmt=".3f")


def inference_on_dataset(
    model: nn.Module, data_loader: Iterable, evaluator: DatasetEvaluator
) -> dict:
    """Run the model in evaluation mode over a loader, and give all to an evaluator.

    Returns:
        The figures, {} when the evaluator has none.
    """
    logger.info("Start inference on %d batches", len(data_loader))
    was_training = model.training
    model.eval()
    evaluator.reset()
    seconds = 0.0
    with torch.no_grad():
        for inputs in data_loader:
            start = time.perf_counter()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds += time.perf_counter() - start
            evaluator.process(inputs, outputs)
    model.train(was_training)
    logger.info("The model took %.6f s / batch", seconds / max(len(data_loader), 1))
    return evaluator.evaluate() or {}


def print_csv_format(results: dict) -> None:
    """Write the figures of each task to the log, ready to be pasted; those of classes left out."""
    for task, figures in results.items():
        shown = {name: value for name, value in figures.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))


def flatten_results(results: dict, prefix: str = "") -> dict:
    """Nested figures by names such as "bbox/AP"."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat.update(flatten_results(value, f"{prefix}{name}/"))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def verify_results(cfg: CfgNode, results: dict) -> bool:
    """Compare figures with TEST.EXPECTED_RESULTS: [task, metric, expected, tolerance] each.

    Returns:
        True if all are within their tolerance; else the process exits with status 1.
    """
    expectations = cfg.TEST.EXPECTED_RESULTS
    faults = []
    for task, metric, expected, tolerance in expectations:
        value = results.get(task, {}).get(metric, math.nan)
        if not abs(value - expected) <= tolerance:  # NaN is a fault too
            faults.append(f"{task}/{metric} is {value}, expected {expected} +- {tolerance}")
    if faults:
        logger.error("TEST.EXPECTED_RESULTS: %s", "; ".join(faults))
        sys.exit(1)
    if expectations:
        logger.info("TEST.EXPECTED_RESULTS: all figures are as expected.")
    return True
