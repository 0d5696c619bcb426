"""The Detectron2 side of an invented task."""

import torch

from own_task.branch import AreaBranch
from yolor_d2.d2.evaluation import DatasetEvaluator
from yolor_d2.tasks import Task


class AreaEvaluator(DatasetEvaluator):
    def reset(self):
        self.errors = []

    def process(self, inputs, outputs):
        for output in outputs:
            found = output["instances"]
            self.errors += (found.pred_areas - found.pred_boxes.area()).abs().tolist()

    def evaluate(self):
        return {"area": {"error": sum(self.errors) / max(len(self.errors), 1)}}


class AreaTask(Task):
    name = "area"

    def add_config(self, node):
        node.ENABLED = False
        node.GAIN = 0.5

    def build(self, node, inputs):
        return AreaBranch(inputs, node.GAIN)

    def pack_truth(self, branch, instances, placements, canvas):
        return {"areas": torch.cat([x.gt_boxes.area() for x in instances])}

    def add_results(self, result, decoded):
        result["instances"].pred_areas = decoded

    def evaluators(self, cfg, dataset_name, folder):
        return [AreaEvaluator()]
