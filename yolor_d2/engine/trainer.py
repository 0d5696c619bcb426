"""The trainer: Detectron2's, with the recipe of the paper."""

from __future__ import annotations

import functools
import logging
import os
import weakref
from contextlib import nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..checkpoint import YOLORCheckpointer
from ..d2.config import CfgNode
from ..d2.engine import DefaultTrainer, HookBase, hooks
from ..d2.evaluation import COCOEvaluator
from ..d2.utils import comm
from ..data.loader import build_test_loader, build_train_loader
from .ema import EMAHook
from .hooks import FITNESS, BestCheckpointer, fitness
from .optimizer import build_optimizer
from .schedule import WarmupCosine, build_lr_scheduler

logger = logging.getLogger(__name__)

# Iterations between two lines in the log and two points of the curves.
WRITE_PERIOD = 20


# Keys of Detectron2 that would have no effect here, with the values that say so.
WITHOUT_EFFECT = {
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.CROP.ENABLED": False,
    "TEST.AUG.ENABLED": False,
    "TEST.PRECISE_BN.ENABLED": False,
}


def check_ignored_keys(cfg: CfgNode) -> None:
    """Refuse settings that YOLOR's trainer would ignore.

    Raises:
        ValueError: naming the key, its value and the only one that is possible.
    """
    for key, only in WITHOUT_EFFECT.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value != only:
            raise ValueError(f"{key} is {value!r}, but YOLOR's trainer knows only {only!r}")


class Trainer(DefaultTrainer):
    """`DefaultTrainer` with YOLOR's data, parameter groups, schedule, and moving average."""

    def __init__(self, cfg: CfgNode):
        check_ignored_keys(cfg)
        super().__init__(cfg)

    def build_hooks(self) -> list[HookBase]:
        """Timer, average, schedule, checkpoints, evaluation, best, writers: in this order."""
        cfg = self.cfg
        wrapped = isinstance(self.model, DistributedDataParallel)
        model = self.model.module if wrapped else self.model
        ema = None
        if cfg.SOLVER.EMA.ENABLED:
            ema = EMAHook(model, decay=cfg.SOLVER.EMA.DECAY, ramp=cfg.SOLVER.EMA.RAMP)
        averaged = ema.applied if ema else nullcontext
        # In place of the one that DefaultTrainer has just made.
        self.checkpointer = YOLORCheckpointer(
            model, cfg.OUTPUT_DIR, averaged=averaged, trainer=weakref.proxy(self)
        )

        def evaluate() -> dict:
            with averaged():
                results = self._last_eval_results = self.test(cfg, self.model)
            value = fitness(results) if comm.is_main_process() else None
            if value is not None:
                self.storage.put_scalar(FITNESS, value, smoothing_hint=False)
            return results

        period = cfg.TEST.EVAL_PERIOD
        built = [hooks.IterationTimer(), ema, hooks.LRScheduler()]
        if comm.is_main_process():
            # Before the evaluation, so that nothing is lost if that fails.
            built.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )
        if cfg.DATASETS.TEST:
            built.append(hooks.EvalHook(period, evaluate))
        if comm.is_main_process():
            if cfg.DATASETS.TEST:
                built.append(BestCheckpointer(period, self.checkpointer))
            built.append(hooks.PeriodicWriter(self.build_writers(), period=WRITE_PERIOD))
        return [hook for hook in built if hook is not None]

    def train(self) -> dict | None:
        """Run the iterations that are left; the results of the last evaluation, if expected."""
        if self.start_iter >= self.max_iter:
            logger.info("The run has all its %d iterations: nothing is left to do", self.max_iter)
            return None
        return super().train()

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in OUTPUT_DIR if there is one, else start from MODEL.WEIGHTS."""
        super().resume_or_load(resume)
        if self.start_iter > 0:
            # The run goes on with the samples that come next, not again with the first ones.
            self._trainer.reset_data_loader(
                lambda: build_train_loader(self.cfg, start_iter=self.start_iter)
            )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if comm.get_world_size() > 1 and cfg.MODEL.DEVICE.startswith("cuda"):
            # Statistics over the whole batch, the same in every process, as in the reference.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
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
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))
