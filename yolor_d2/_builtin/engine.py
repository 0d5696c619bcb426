"""Process set-up, the default trainer and the default predictor."""

from __future__ import annotations

import argparse
import logging
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from . import comm
from .catalog import MetadataCatalog
from .checkpoint import DetectionCheckpointer
from .config import CfgNode
from .data import ResizeShortestEdge
from .evaluation import verify_results
from .events import EventWriter, default_writers
from .logger import collect_env, setup_logger
from .modeling import build_model
from .train_loop import TrainerBase

logger = logging.getLogger(__name__)


# ---- Process


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> Any:
    """Call the main function in this process.

    Raises:
        RuntimeError: when more than one process is requested.
    """
    comm.require_one_process(num_machines * num_gpus_per_machine)
    return main_func(*args)


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare a run: folder, log, seed; writes OUTPUT_DIR/config.yaml.

    Args:
        cfg: the complete configuration.
        args: the command line, of which `config_file` and `eval_only` are used.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    setup_logger(cfg.OUTPUT_DIR, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR)
    logger.info("Environment:\n%s", collect_env())
    logger.info("Command line: %s", args)
    config_file = getattr(args, "config_file", "")
    if os.path.isfile(config_file):
        with open(config_file, encoding="utf-8") as file:
            logger.info("Configuration file %s:\n%s", config_file, file.read())
    logger.info("Complete configuration:\n%s", cfg.dump())
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(cfg.dump())
    logger.info("Configuration written to %s", path)
    seed_everything(cfg.SEED)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random; a negative seed takes one from the operating system."""
    if seed < 0:
        seed = int.from_bytes(os.urandom(4), "little")
        logger.info("Using the random seed %d", seed)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


# ---- Trainer


def refuse_left_out(cfg: CfgNode) -> None:
    """Name what a configuration requires and this runtime lacks.

    Raises:
        NotImplementedError: when there is such a thing.
    """
    asked = {
        "TEST.PRECISE_BN.ENABLED": cfg.TEST.PRECISE_BN.ENABLED,
        "MODEL.MASK_ON": cfg.MODEL.MASK_ON,
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
        "SOLVER.REFERENCE_WORLD_SIZE": cfg.SOLVER.REFERENCE_WORLD_SIZE > 1,
    }
    keys = [key for key, value in asked.items() if value]
    if keys:
        raise NotImplementedError(f"{', '.join(keys)}: not part of the built-in runtime")


def create_ddp_model(model: nn.Module, **kwargs: Any) -> nn.Module:
    """The model itself, as there is one process."""
    return model


class DefaultTrainer(TrainerBase):
    """What Detectron2's trainer does with its parts. Subclasses make them: model, optimiser, data
    loader and step in `_trainer`, `scheduler`, `checkpointer`, `cfg`, `max_iter` and hooks."""

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """The configuration for this number of processes.

        Raises:
            NotImplementedError: when it asks for what this runtime has not.
            RuntimeError: when there are several processes.
        """
        refuse_left_out(cfg)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            num_workers = torch.distributed.get_world_size()
        comm.require_one_process(num_workers)
        return cfg

    @property
    def model(self) -> nn.Module:
        return self._trainer.model

    @property
    def optimizer(self) -> Optimizer:
        return self._trainer.optimizer

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in OUTPUT_DIR if there is one, else load MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # that of the checkpoint is done

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict | None:
        """Train; returns the last metrics if TEST.EXPECTED_RESULTS is set."""
        super().train(self.start_iter, self.max_iter)
        if not self.cfg.TEST.EXPECTED_RESULTS:
            return None
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._trainer.load_state_dict(state["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model


# ---- Predictor


class DefaultPredictor:
    """One image at a time, as it was read, with the weights of MODEL.WEIGHTS.

    Args:
        cfg: the configuration.
    """

    def __init__(self, cfg: CfgNode):
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise AssertionError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, expected 'RGB' or 'BGR'")
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        size = cfg.INPUT.MIN_SIZE_TEST
        self.aug = ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict:
        """Detect on an image.

        Args:
            original_image: (H, W, C) in BGR.

        Returns:
            The model's output: {"instances": Instances}, boxes in pixels of the image.
        """
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        pixels = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        inputs = {"image": pixels.to(self.cfg.MODEL.DEVICE), "height": height, "width": width}
        return self.model([inputs])[0]
