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
    "SOLVER.OPTIMIZER, WARMUP_BIAS_LR, WARMUP_MOMENTUM, NOMINAL_BATCH, FREEZE and CLIP_NORM, and "
    "MODEL.YOLOR.TEACHER have no effect, and no best weights are kept. Trainer takes the place of "
    "DefaultTrainer, see docs/detectron2.md"
)


def tell_who_trains() -> None:
    """Say once what another trainer than ours leaves out."""
    if comm.is_main_process():
        logger.warning(OUTSIDE)


def compare_classes(num_classes: int, datasets: Sequence[str]) -> None:
    """Say where a model has other classes than the data that it seems to be trained on.

    A label beyond the classes of the model is an error of its batch, see `batch.pack_truth`.
    Whether a loop of the user's takes its data from DATASETS.TRAIN, nobody here knows.

    Args:
        num_classes: of the model.
        datasets: names; those of which no classes are known are passed over.
    """
    from ..d2.data import MetadataCatalog  # not there yet when models are registered

    for name in datasets:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes and len(classes) != num_classes and comm.is_main_process():
            logger.warning(
                "MODEL.YOLOR.NUM_CLASSES is %d, but data set %r has %d classes: %s%s. %s",
                num_classes,
                name,
                len(classes),
                ", ".join(map(str, classes[:10])),
                ", ..." if len(classes) > 10 else "",
                "The others of the model will never be learned"
                if len(classes) < num_classes
                else "Objects of the others are an error",
            )
