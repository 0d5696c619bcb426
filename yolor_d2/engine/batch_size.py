"""SOLVER.IMS_PER_BATCH auto: as many images as the memory of a GPU holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..config import read_config
from ..config.node import WORDS
from ..d2.config import CfgNode
from ..d2.utils import EventStorage, comm
from ..data.loader import build_training_dataset
from ..data.training_data import TrainingData
from ..modeling.teacher import TaughtModel
from ..runs import CONFIG_NAME, find_training
from .distributed.progress import progress
from .gpu import suit_gpu
from .step import StepTrainer, precision_from_config
from .teacher import add_teacher

KEY = "SOLVER.IMS_PER_BATCH"
AUTO = WORDS[KEY]
# Fraction of the free memory that a step may take. The rest is for batches with more objects than
# those tried, for evaluation, and for memory that is free in pieces.
FRACTION = 0.8
# Images that are tried; larger batches repeat them. Those with the most objects, which cost most.
SAMPLES = 16
# Steps of a trial: the second has the optimiser's state, and the next batch on its way.
STEPS = 2
# The search ends when the answer is known to one part in so many.
PRECISION = 8
GIB = 2**30

# Bytes that a step with so many images takes, None where they do not fit at all.
Measure = Callable[[int], int | None]


def largest_batch(measure: Measure, limit: float, most: int) -> tuple[int, int]:
    """The largest batch whose step takes no more than so many bytes, to one part in `PRECISION`.

    The number is doubled until it does not fit; then what lies between is halved.

    Args:
        measure: tries a batch.
        limit: bytes.
        most: images that are enough.

    Returns:
        Images, and the bytes that they take.

    Raises:
        ValueError: when one image does not fit.
    """
    fits, used = 0, 0
    too_many = most + 1
    trial = 1
    while trial < too_many:
        taken = measure(trial)
        if taken is None or taken > limit:
            too_many = trial
        else:
            fits, used = trial, taken
        if too_many - fits <= max(fits // PRECISION, 1):
            break
        trial = min(2 * fits, most) if too_many > most else (fits + too_many) // 2
    if fits == 0:
        raise ValueError(
            f"{KEY} is {AUTO!r}, but a step with one image of INPUT.MAX_SIZE_TRAIN needs more than "
            f"the {limit / GIB:.1f} GiB that it may take: train smaller images or a smaller model"
        )
    return fits, used


def fit_nominal(batch: int, nominal: int, world_size: int) -> int:
    """The batch of all processes that makes an iteration just SOLVER.NOMINAL_BATCH images.

    Args:
        batch: the largest one, a multiple of the processes.
        nominal: SOLVER.NOMINAL_BATCH; 0 takes the largest.
        world_size: processes that share it.

    Returns:
        The largest divisor of `nominal` that they can share; `batch` where there is none.
    """
    if nominal == 0:
        return batch
    shared = range(world_size, min(batch, nominal) + 1, world_size)
    return max((n for n in shared if nominal % n == 0), default=batch)


class GPUTrial:
    """Makes steps of a training with real images, at the largest size that they get.

    Args:
        cfg: the configuration.
    """

    def __init__(self, cfg: CfgNode):
        from .trainer import Trainer  # which needs the number that is looked for here

        cfg = suit_gpu(cfg).clone()
        cfg.defrost()
        cfg.SOLVER.IMS_PER_BATCH = 1
        # Squares of the largest size, in this process alone, and nothing that takes host memory.
        size = round(cfg.INPUT.MAX_SIZE_TRAIN * (1 + cfg.INPUT.MULTI_SCALE))
        cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = size, (size,)
        cfg.INPUT.MULTI_SCALE, cfg.INPUT.RECT, cfg.INPUT.CACHE = 0.0, False, "none"
        cfg.INPUT.SIZE_STEPS = []
        cfg.MODEL.SYNC_BN, cfg.MODEL.COMPILE = False, False
        dataset = build_training_dataset(cfg)
        busiest = np.argsort(-np.diff(dataset.starts), kind="stable")[:SAMPLES]
        self.samples = [dataset[position, int(i)] for position, i in enumerate(busiest)]
        self.cfg, self.trainer = cfg, Trainer

    def limit(self) -> float:
        """Bytes that a step may take."""
        free, _ = torch.cuda.mem_get_info()
        return FRACTION * (free + torch.cuda.memory_reserved())

    def __call__(self, batch: int) -> int | None:
        """See `Measure`."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            self.make_steps(list(itertools.islice(itertools.cycle(self.samples), batch)))
        except torch.OutOfMemoryError:
            return None
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved()

    def make_steps(self, batch: list[dict]) -> None:
        cfg = self.cfg
        model = add_teacher(cfg, self.trainer.build_model(cfg), self.trainer.build_model)
        step = StepTrainer(
            model,
            [batch] * (STEPS + 1),
            self.trainer.build_optimizer(cfg, model),
            precision=precision_from_config(cfg),
            clip_norm=cfg.SOLVER.CLIP_NORM,
        )
        copies = None
        if cfg.SOLVER.EMA.ENABLED:  # the average, and the raw weights while it is evaluated
            averaged = model.trained() if isinstance(model, TaughtModel) else [model]
            values = [x for part in averaged for x in part.state_dict().values()]
            copies = [[x.clone() for x in values] for _ in range(2)]
        with EventStorage():
            for step.iter in range(STEPS):
                step.run_step()
            step.read_all()
        del copies


def resolve_batch(cfg: CfgNode, *, resume: bool, trial: Callable[[CfgNode], GPUTrial]) -> str:
    """Put a number in place of SOLVER.IMS_PER_BATCH auto; all processes call this.

    Args:
        cfg: changed in place.
        resume: a run in OUTPUT_DIR goes on, with the number that it has.
        trial: what tries batches, in process 0; it is taken that the GPUs are alike.

    Returns:
        The result, for the log.

    Raises:
        ValueError: when MODEL.DEVICE is no GPU, or when one image does not fit.
    """
    folder, world_size = Path(cfg.OUTPUT_DIR), comm.get_world_size()
    earlier = folder / CONFIG_NAME
    if resume and find_training(folder) is not None and earlier.is_file():
        known = read_config(earlier).SOLVER.IMS_PER_BATCH
        if known != AUTO:
            cfg.SOLVER.IMS_PER_BATCH = known
            return f"{KEY} {AUTO}: {known} images, as in the run that goes on"
    if trial is GPUTrial and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"{KEY} is {AUTO!r}, which goes by the memory of a GPU, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}: give a number"
        )
    outcome: tuple[int, int, float] | Exception | None = None
    if comm.is_main_process():
        with progress.during("search for the batch size"):
            nominal = cfg.SOLVER.NOMINAL_BATCH
            most = -(-(nominal or TrainingData(cfg).count_images()) // world_size)
            try:
                tried = trial(cfg)
                limit = tried.limit()
                outcome = (*largest_batch(tried, limit, most), limit)
            except ValueError as error:  # for all processes
                outcome = error
    outcome = comm.all_gather(outcome)[0]
    if isinstance(outcome, Exception):
        raise outcome
    batch, used, limit = outcome
    cfg.SOLVER.IMS_PER_BATCH = fit_nominal(batch * world_size, cfg.SOLVER.NOMINAL_BATCH, world_size)
    return (
        f"{KEY} {AUTO}: {cfg.SOLVER.IMS_PER_BATCH} images; a step with {batch} on a GPU takes "
        f"{used / GIB:.1f} GiB, and may take {limit / GIB:.1f} GiB ({FRACTION:.0%} of what is free)"
    )
