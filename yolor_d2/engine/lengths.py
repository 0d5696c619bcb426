"""Lengths that a configuration gives in epochs, turned into iterations."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace

from ..d2.config import CfgNode
from ..data.accumulation import Accumulation
from ..data.loader import count_training_images

logger = logging.getLogger(__name__)

# Each length in epochs, and the key that it sets.
LENGTHS = {
    "SOLVER.MAX_EPOCHS": "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_EPOCHS": "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_EPOCHS": "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_EPOCHS": "TEST.EVAL_PERIOD",
    "INPUT.AUGMENT.MOSAIC_OFF_EPOCHS": "INPUT.AUGMENT.MOSAIC_OFF",
}


def get_key(cfg: CfgNode, key: str) -> object:
    """Value of a key such as "SOLVER.MAX_ITER"."""
    node = cfg
    for name in key.split("."):
        node = node[name]
    return node


def translate_epochs(cfg: CfgNode, opts: Sequence[str] = ()) -> None:
    """Set the keys in iterations from those in epochs that are not 0.

    An epoch is as many samples as there are training images. With accumulation a warm-up iteration
    has fewer batches than later ones, which is counted in.

    Args:
        cfg: changed in place.
        opts: KEY VALUE KEY VALUE ... of the command line, which may not set what is overruled here.

    Raises:
        ValueError: when a length is negative, when the mosaic is off for longer than the run, or
            when a key in iterations is given on the command line beside one in epochs.
    """
    epochs = {key: get_key(cfg, key) for key in LENGTHS}
    for key, value in epochs.items():
        if value < 0:
            raise ValueError(f"{key} is {value}, expected 0 (not used) or more")
        if value > 0 and LENGTHS[key] in opts[::2]:
            raise ValueError(
                f"{LENGTHS[key]} is given, but {key} is {value} and decides: add `{key} 0`"
            )
    if not any(epochs.values()):
        return

    num_images, batch = count_training_images(cfg), cfg.SOLVER.IMS_PER_BATCH
    accumulation = Accumulation.from_config(cfg)

    def batches(key: str) -> float:
        return epochs[key] * num_images / batch

    if epochs["SOLVER.WARMUP_EPOCHS"]:
        # The mean over the warm-up is halfway between one batch and the full number.
        iterations = round(2 * batches("SOLVER.WARMUP_EPOCHS") / (1 + accumulation.full))
        cfg.SOLVER.WARMUP_ITERS = max(iterations, cfg.SOLVER.WARMUP_MIN_ITERS)
        accumulation = replace(accumulation, warmup_iters=cfg.SOLVER.WARMUP_ITERS)
    if epochs["SOLVER.MAX_EPOCHS"]:
        cfg.SOLVER.MAX_ITER = iterations_for(accumulation, batches("SOLVER.MAX_EPOCHS"))
    if epochs["SOLVER.CHECKPOINT_EPOCHS"]:
        period = batches("SOLVER.CHECKPOINT_EPOCHS") / accumulation.full
        cfg.SOLVER.CHECKPOINT_PERIOD = max(round(period), 1)
    if epochs["TEST.EVAL_EPOCHS"]:
        cfg.TEST.EVAL_PERIOD = max(round(batches("TEST.EVAL_EPOCHS") / accumulation.full), 1)
    if epochs["INPUT.AUGMENT.MOSAIC_OFF_EPOCHS"]:
        whole = accumulation.batches_before(cfg.SOLVER.MAX_ITER)
        share = batches("INPUT.AUGMENT.MOSAIC_OFF_EPOCHS") / whole
        if share > 1:
            raise ValueError(
                "INPUT.AUGMENT.MOSAIC_OFF_EPOCHS is "
                f"{epochs['INPUT.AUGMENT.MOSAIC_OFF_EPOCHS']}, but the whole run has "
                f"{whole * batch / num_images:g} epochs"
            )
        cfg.INPUT.AUGMENT.MOSAIC_OFF = share
    if cfg.SOLVER.WARMUP_ITERS >= cfg.SOLVER.MAX_ITER:
        logger.warning(
            "The warm-up of %d iterations (SOLVER.WARMUP_EPOCHS, WARMUP_MIN_ITERS) is as long as "
            "the whole run of %d",
            *(cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER),
        )
    for key, value in epochs.items():
        if value:
            logger.info(
                "%s %d of %d images: %s %s",
                *(key, value, num_images, LENGTHS[key], get_key(cfg, LENGTHS[key])),
            )


def iterations_for(accumulation: Accumulation, batches: float) -> int:
    """The number of iterations, at least 1, whose batches come closest to a number of batches."""
    warmup = accumulation.batches_before(accumulation.warmup_iters)
    if batches >= warmup:
        return max(accumulation.warmup_iters + round((batches - warmup) / accumulation.full), 1)
    totals = itertools.accumulate(map(accumulation.batches_of, range(accumulation.warmup_iters)))
    closest = min(enumerate(totals, start=1), key=lambda pair: abs(pair[1] - batches))
    return closest[0]
