"""What the configuration makes a trainer of: model, optimiser, schedule, loaders, evaluators.

All are class methods, as Detectron2's own scripts call them without a trainer.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..d2.config import CfgNode
from ..d2.engine import DefaultTrainer
from ..d2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
)
from ..d2.utils import comm
from ..data.loader import build_test_loader, build_train_loader
from ..evaluation.coco_evaluator import COCOEvaluator
from ..evaluation.stages import StageTimer
from ..modeling.inference import prepare_for_inference
from ..report.files import inference_folder, keep_for_report
from ..tasks import coco_options, enabled_tasks
from .distributed.progress import progress
from .freeze import freeze
from .monitoring.console import FOR_FILE
from .optimizer import build_optimizer
from .schedule import WarmupCosine, build_lr_scheduler

logger = logging.getLogger(__name__)


class TrainerParts(DefaultTrainer):
    """`DefaultTrainer` with YOLOR's parts; `Trainer` runs them."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        on_gpus = comm.get_world_size() > 1 and cfg.MODEL.DEVICE.startswith("cuda")
        if on_gpus and cfg.MODEL.SYNC_BN:
            # Statistics over the whole batch, the same in every process, as in the reference.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        freeze(model, cfg.SOLVER.FREEZE)
        if cfg.MODEL.COMPILE:
            # Of the parts, in place: torch.compile(model) would rename the tensors of checkpoints.
            model.backbone.compile()
            model.head.compile()
            if getattr(model, "tasks", None):
                model.tasks.compile()
            if hasattr(model, "compute_losses"):
                model.compute_losses = torch.compile(model.compute_losses)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> WarmupCosine:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        return build_train_loader(cfg)

    @classmethod
    @progress.during("evaluation")
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate the model as MODEL.INFERENCE and TEST.AUG want it, on all of DATASETS.TEST.

        Args:
            cfg: the configuration.
            model: weights already loaded.
            evaluators: one for each data set; None takes those of `build_evaluator`, and keeps
                metrics and speed beside their detections, for the report.

        Returns:
            Metrics by task; by data set and task where there are several.
        """
        model = prepare_for_inference(model, cfg)
        names = list(cfg.DATASETS.TEST)
        given = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
        if given is not None and len(given) != len(names):
            raise ValueError(f"{len(given)} evaluators, but DATASETS.TEST has {len(names)} names")
        results = {}
        for number, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            evaluator = cls.build_evaluator(cfg, name) if given is None else given[number]
            timer = StageTimer(model)
            with timer.watching():
                results[name] = inference_on_dataset(
                    model, loader, DatasetEvaluators([evaluator, timer])
                )
            if comm.is_main_process():
                logger.info("Metrics of %s:", name, extra={FOR_FILE: True})
                print_csv_format(results[name])
                if given is None:
                    keep_for_report(cfg, name, results[name], timer.summary())
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """COCO's metrics of the detections, and those of the further tasks that are switched on."""
        folder = inference_folder(cfg, dataset_name)
        evaluators: list[DatasetEvaluator] = [
            COCOEvaluator(dataset_name, output_dir=str(folder), options=coco_options(cfg))
        ]
        for task, _ in enabled_tasks(cfg):
            evaluators += task.evaluators(cfg, dataset_name, Path(folder))
        return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
