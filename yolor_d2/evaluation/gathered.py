"""What the evaluators of further tasks share: records of all processes, evaluated in one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..d2.data import DatasetCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.utils import comm


class GatheringEvaluator(DatasetEvaluator):
    """Collects a record for each image and evaluates those of all processes in process 0.

    Args:
        dataset_name: a registered data set with annotations.
    """

    def __init__(self, dataset_name: str):
        self.truth = {item["image_id"]: item for item in DatasetCatalog.get(dataset_name)}
        self.records: list[dict] = []

    def reset(self) -> None:
        self.records = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for given, found in zip(inputs, outputs):
            self.records.append({"image_id": given["image_id"], **self.record(given, found)})

    def record(self, given: dict, found: dict) -> dict:
        """What is kept of one image, on the CPU."""
        raise NotImplementedError

    def figures(self, records: list[dict]) -> dict:
        """Figures by task and name."""
        raise NotImplementedError

    def evaluate(self) -> dict:
        records = list(itertools.chain(*comm.gather(self.records)))
        if not comm.is_main_process() or not records:
            return {}
        # Processes may share an image to make their numbers equal.
        return self.figures(list({record["image_id"]: record for record in records}.values()))


class EvaluatorGroup(DatasetEvaluator):
    """Several evaluators as one; figures by task, which must differ."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        self.evaluators = list(evaluators)

    def reset(self) -> None:
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        results: dict = {}
        for evaluator in self.evaluators:
            results.update(evaluator.evaluate() or {})
        return results
