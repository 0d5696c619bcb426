"""Evaluators, and the loop that feeds them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Sequence

import torch
from fvcore.common.config import CfgNode
from torch import nn

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Collects outputs of a model batch by batch, then turns them into metrics."""

    def reset(self) -> None:
        """Forget all outputs."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch and what the model made of it."""

    def evaluate(self) -> dict | None:
        """Metrics by task and name."""


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
        """Metrics of all, by task and name."""
        results = {}
        for evaluator in self.evaluators:
            for task, metrics in (evaluator.evaluate() or {}).items():
                if task in results:
                    raise AssertionError(f"two evaluators give metrics of the task {task!r}")
                results[task] = metrics
        return results


def inference_on_dataset(
    model: nn.Module, data_loader: Iterable, evaluator: DatasetEvaluator
) -> dict:
    """Run the model in evaluation mode over a loader, and give all to an evaluator.

    Returns:
        The metrics, {} when the evaluator has none.
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
    """Write the metrics of each task to the log, ready to be pasted; those of classes left out."""
    for task, metrics in results.items():
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))


def flatten_results(results: dict, prefix: str = "") -> dict:
    """Nested metrics by names such as "bbox/AP"."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat.update(flatten_results(value, f"{prefix}{name}/"))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def verify_results(cfg: CfgNode, results: dict) -> bool:
    """Compare metrics with TEST.EXPECTED_RESULTS: [task, metric, expected, tolerance] each.

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
        logger.info("TEST.EXPECTED_RESULTS: all metrics are as expected.")
    return True
