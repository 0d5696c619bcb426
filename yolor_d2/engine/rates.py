"""Learning rates that hold when the batch changes."""

from __future__ import annotations

from collections.abc import Sequence

from ..d2.config import CfgNode
from ..data.accumulation import Accumulation
from .lengths import get_key

# With r images an iteration for each that the values are meant for, a key is multiplied by r to
# this power. The loss sums over images, so a gradient is r times as large, and what is compared
# with it (decay, greatest norm) grows alike. Steps of SGD keep their size: at twice that size the
# quick start's losses were infinite after 27 iterations, with batches of 32. Muon's steps, which do
# not depend on the size of a gradient, grow by the root, as usual where gradients are normalised.
POWERS = {
    "SOLVER.BASE_LR": -1.0,
    "SOLVER.BASE_LR_END": -1.0,
    "SOLVER.WARMUP_BIAS_LR": -1.0,
    "SOLVER.MUON.BASE_LR": 0.5,
    "SOLVER.WEIGHT_DECAY": 1.0,
    "SOLVER.WEIGHT_DECAY_NORM": 1.0,
    "SOLVER.WEIGHT_DECAY_BIAS": 1.0,
    "SOLVER.CLIP_NORM": 1.0,
}
# `optimizer.nominal_fraction` takes care of these where SOLVER.NOMINAL_BATCH is given.
DECAYS = {"SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"}


def scale_rates(cfg: CfgNode, opts: Sequence[str] = ()) -> list[str]:
    """Turn rates for SOLVER.REFERENCE_BATCH images an iteration into those for the run's number.

    SOLVER.REFERENCE_BATCH is that number then, as the new values are meant for it: a second call,
    or one for a configuration that was saved afterwards, changes nothing.

    Args:
        cfg: changed in place.
        opts: KEY VALUE KEY VALUE ... of the command line; rates that it gives stay.

    Returns:
        What was changed, for the log; nothing where the numbers agree, or the former is 0.

    Raises:
        ValueError: when SOLVER.REFERENCE_BATCH is negative.
    """
    reference = cfg.SOLVER.REFERENCE_BATCH
    if reference < 0:
        raise ValueError(f"SOLVER.REFERENCE_BATCH is {reference}, expected 0 (off) or more")
    images = Accumulation.from_config(cfg).full * cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, images):
        return []
    kept = set(opts[::2]) | (DECAYS if cfg.SOLVER.NOMINAL_BATCH else set())
    changed = []
    for key, power in POWERS.items():
        value = get_key(cfg, key)
        if key in kept or not value:
            continue
        new = value * (images / reference) ** power
        cfg.merge_from_list([key, new])
        changed.append(f"{key} {value:g} to {new:.3g}")
    cfg.SOLVER.REFERENCE_BATCH = images
    return [
        f"Rates for {images} images an iteration instead of {reference} (SOLVER.REFERENCE_BATCH): "
        f"{', '.join(changed) or 'all given, none changed'}"
    ]
