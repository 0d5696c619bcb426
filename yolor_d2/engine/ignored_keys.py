"""Settings that the trainer would ignore are refused."""

from __future__ import annotations

import functools

from ..d2.config import CfgNode

# Keys of Detectron2 that would have no effect here, with the values that say so.
WITHOUT_EFFECT = {
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.CROP.ENABLED": False,
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
    if cfg.DATALOADER.IMAGE_WEIGHTS and not cfg.DATASETS.TEST:
        raise ValueError("DATALOADER.IMAGE_WEIGHTS is True, but DATASETS.TEST gives no AP to go by")
    patience = cfg.SOLVER.EARLY_STOPPING.PATIENCE
    if patience > 0 and not (cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0):
        raise ValueError(
            f"SOLVER.EARLY_STOPPING.PATIENCE is {patience}, but there are no evaluations to go by: "
            f"give DATASETS.TEST (--val) and TEST.EVAL_PERIOD or TEST.EVAL_EPOCHS above 0"
        )
