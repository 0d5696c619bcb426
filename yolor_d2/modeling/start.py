"""What is looked at when a model is trained for the first time, whoever trains it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..d2.modeling import build_model
from ..d2.utils import comm

# A script of the user's sets up the log of its runtime, not ours.
logger = logging.getLogger(build_model.__module__)

OUTSIDE = (
    "This YOLOR model is not trained by yolor_d2.engine.Trainer: SOLVER.EMA (the moving average), "
    "INPUT.AUGMENT (mosaic and the rest), lengths in epochs (SOLVER.MAX_EPOCHS and the like), "
    "SOLVER.OPTIMIZER, WARMUP_BIAS_LR, WARMUP_MOMENTUM, NOMINAL_BATCH, FREEZE and CLIP_NORM have "
    "no effect, and no best weights are kept. Trainer takes the place of DefaultTrainer, see "
    "docs/detectron2.md"
)


def tell_who_trains() -> None:
    """Say once what another trainer than ours leaves out."""
    if comm.is_main_process():
        logger.warning(OUTSIDE)


def compare_classes(num_classes: int, datasets: Sequence[str]) -> None:
    """Compare the classes of a model with those of the data that it is to be trained on.

    Args:
        num_classes: of the model.
        datasets: names; those of which no classes are known are passed over.

    Raises:
        ValueError: when data have more classes than the model; more of the model are a warning.
    """
    from ..d2.data import MetadataCatalog  # not there yet when models are registered

    for name in datasets:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if not classes or len(classes) == num_classes:
            continue
        found = (
            f"MODEL.YOLOR.NUM_CLASSES is {num_classes}, but data set {name!r} has {len(classes)} "
            f"classes: {', '.join(map(str, classes[:10]))}{', ...' if len(classes) > 10 else ''}"
        )
        if len(classes) > num_classes:
            raise ValueError(found)
        if comm.is_main_process():
            logger.warning("%s. The others of the model will never be learned", found)
