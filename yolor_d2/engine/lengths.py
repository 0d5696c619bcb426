"""Lengths of a run: those in epochs turned into iterations, and all in proportion to the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ..d2.config import CfgNode
from ..data.accumulation import Accumulation
from ..data.training_data import TrainingData

# Each length in epochs, and the key that it sets.
LENGTHS = {
    "SOLVER.MAX_EPOCHS": "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_EPOCHS": "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_EPOCHS": "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_EPOCHS": "TEST.EVAL_PERIOD",
    "INPUT.AUGMENT.MOSAIC_OFF_EPOCHS": "INPUT.AUGMENT.MOSAIC_OFF",
}
# Periods, and what does not happen before the end of a run that is shorter.
PERIODS = {
    "TEST.EVAL_PERIOD": "no evaluation",
    "SOLVER.CHECKPOINT_PERIOD": "no checkpoint",
    "VIS_PERIOD": "no picture of the implicit knowledge",
}


def get_key(cfg: CfgNode, key: str) -> object:
    """Value of a key such as "SOLVER.MAX_ITER"."""
    node = cfg
    for name in key.split("."):
        node = node[name]
    return node


def fit_lengths(cfg: CfgNode, opts: Sequence[str] = ()) -> list[str]:
    """Set the keys in iterations from those in epochs that are not 0, and fit what does not fit.

    A warm-up or a moving average that is too long for the run is shortened. What the command line
    gives stays, and the limit that it overrules is switched off in the configuration, so that the
    run goes on alike from the configuration that it saves.

    Args:
        cfg: changed in place.
        opts: KEY VALUE KEY VALUE ... of the command line, which may not set what is overruled here.

    Returns:
        What the lengths are, what was changed, and what may surprise, for the log.

    Raises:
        ValueError: when a length is negative, when the mosaic is off for longer than the run, or
            when a key in iterations is given on the command line beside one in epochs.
    """
    given = set(opts[::2])
    if "SOLVER.WARMUP_ITERS" in given:
        cfg.SOLVER.WARMUP_MAX_SHARE = 0.0
    if given & {"SOLVER.EMA.DECAY", "SOLVER.EMA.RAMP"}:
        cfg.SOLVER.EMA.MAX_SHARE = 0.0
    check_epochs(cfg, given)
    images = TrainingData(cfg).count_images()
    notes = translate_epochs(cfg, images, by_hand="SOLVER.MAX_EPOCHS" in given)
    return notes + shorten_average(cfg) + find_surprises(cfg, images)


def check_epochs(cfg: CfgNode, given: set[str]) -> None:
    """Refuse lengths in epochs that are negative, or that overrule one that was given."""
    for key, iterations in LENGTHS.items():
        value = get_key(cfg, key)
        if value < 0:
            raise ValueError(f"{key} is {value}, expected 0 (not used) or more")
        if value > 0 and iterations in given:
            raise ValueError(
                f"{iterations} is given, but {key} is {value} and decides: add `{key} 0`"
            )


def translate_epochs(cfg: CfgNode, num_images: int, *, by_hand: bool = False) -> list[str]:
    """Set the keys in iterations from those in epochs that are not 0, and limit the warm-up.

    An epoch is as many samples as there are training images. With accumulation a warm-up iteration
    has fewer batches than later ones, which is counted in. Where SOLVER.MAX_EPOCHS gives fewer
    iterations than SOLVER.MIN_ITERS, all lengths in epochs grow by the same factor.

    Args:
        cfg: changed in place.
        num_images: images of an epoch.
        by_hand: SOLVER.MAX_EPOCHS stays unchanged, however few iterations that gives.

    Returns:
        As `fit_lengths`.
    """
    epochs = {key: get_key(cfg, key) for key in LENGTHS}
    accumulation = Accumulation.from_config(cfg)
    notes = []

    def batches(key: str) -> float:
        return epochs[key] * num_images / cfg.SOLVER.IMS_PER_BATCH

    def set_run() -> list[str]:
        """Set warm-up and length, each of which depends on the other."""
        warmup = given_warmup = cfg.SOLVER.WARMUP_ITERS
        if epochs["SOLVER.WARMUP_EPOCHS"]:
            # The mean over the warm-up is halfway between one batch and the full number.
            iterations = round(2 * batches("SOLVER.WARMUP_EPOCHS") / (1 + accumulation.full))
            warmup = given_warmup = max(iterations, cfg.SOLVER.WARMUP_MIN_ITERS)
        while True:
            if epochs["SOLVER.MAX_EPOCHS"]:
                cfg.SOLVER.MAX_ITER = iterations_for(
                    replace(accumulation, warmup_iters=warmup), batches("SOLVER.MAX_EPOCHS")
                )
            limit = int(cfg.SOLVER.WARMUP_MAX_SHARE * cfg.SOLVER.MAX_ITER)
            if not cfg.SOLVER.WARMUP_MAX_SHARE or warmup <= limit:
                break
            warmup = limit  # and the run may become shorter by that
        cfg.SOLVER.WARMUP_ITERS = warmup
        if warmup == given_warmup:
            return []
        return [
            f"Warm-up shortened from {given_warmup} to {warmup} iterations: "
            f"{fraction_in_words(cfg.SOLVER.WARMUP_MAX_SHARE)} of the run (SOLVER.WARMUP_MAX_SHARE)"
        ]

    shortened = set_run()
    least = cfg.SOLVER.MIN_ITERS
    if epochs["SOLVER.MAX_EPOCHS"] and least > cfg.SOLVER.MAX_ITER:
        short = (
            f"SOLVER.MAX_EPOCHS {epochs['SOLVER.MAX_EPOCHS']} of {num_images} images, "
            f"{cfg.SOLVER.IMS_PER_BATCH} a batch, are {cfg.SOLVER.MAX_ITER} iterations, fewer than "
            f"SOLVER.MIN_ITERS {least}"
        )
        if by_hand:
            cfg.SOLVER.MIN_ITERS = 0
            notes.append(f"{short}: a model may learn little, but the command line says so")
        else:
            factor = least * accumulation.full / batches("SOLVER.MAX_EPOCHS")
            epochs = {key: value * factor for key, value in epochs.items()}
            shortened = set_run()
            cfg.SOLVER.MAX_ITER = max(cfg.SOLVER.MAX_ITER, least)
            notes.append(f"{short}: all lengths in epochs are {factor:.3g} times as long")
    notes += shortened

    for key in ("SOLVER.CHECKPOINT_EPOCHS", "TEST.EVAL_EPOCHS"):
        if epochs[key]:
            period = max(round(batches(key) / accumulation.full), 1)
            cfg.merge_from_list([LENGTHS[key], period])
    if epochs["INPUT.AUGMENT.MOSAIC_OFF_EPOCHS"]:
        whole = Accumulation.from_config(cfg).batches_before(cfg.SOLVER.MAX_ITER)
        fraction = batches("INPUT.AUGMENT.MOSAIC_OFF_EPOCHS") / whole
        if fraction > 1:
            raise ValueError(
                "INPUT.AUGMENT.MOSAIC_OFF_EPOCHS is "
                f"{cfg.INPUT.AUGMENT.MOSAIC_OFF_EPOCHS}, but the whole run has "
                f"{whole * cfg.SOLVER.IMS_PER_BATCH / num_images:g} epochs"
            )
        cfg.INPUT.AUGMENT.MOSAIC_OFF = fraction
    if any(epochs.values()):
        values = (
            f"{key} {epochs[key]:.3g}: {LENGTHS[key]} {get_key(cfg, LENGTHS[key]):.6g}"
            for key in LENGTHS
            if epochs[key]
        )
        notes.append(f"Lengths in epochs of {num_images} images: {', '.join(values)}")
    return notes


def iterations_for(accumulation: Accumulation, batches: float) -> int:
    """The number of iterations, at least 1, whose batches come closest to a number of batches."""
    warmup = accumulation.batches_before(accumulation.warmup_iters)
    if batches >= warmup:
        return max(accumulation.warmup_iters + round((batches - warmup) / accumulation.full), 1)
    totals = itertools.accumulate(map(accumulation.batches_of, range(accumulation.warmup_iters)))
    closest = min(enumerate(totals, start=1), key=lambda pair: abs(pair[1] - batches))
    return closest[0]


def shorten_average(cfg: CfgNode) -> list[str]:
    """Let the moving average, and the ramp of its decay, span SOLVER.EMA.MAX_SHARE of the run.

    An average of 10,000 iterations (DECAY 0.9999) lags behind a run of 20,000 by a third of it, and
    with a ramp of 2,000 there is hardly an average in a run of 1,000.

    Args:
        cfg: changed in place.

    Returns:
        As `fit_lengths`.
    """
    ema = cfg.SOLVER.EMA
    if not (ema.ENABLED and ema.MAX_SHARE):
        return []
    limit = max(ema.MAX_SHARE * cfg.SOLVER.MAX_ITER, 1.0)
    changed = []
    # The small term is for values that were set here before.
    if (1 - ema.DECAY) * limit < 1 - 1e-6:
        changed.append(f"DECAY {ema.DECAY:g} to {1 - 1 / limit:.6g}")
        ema.DECAY = 1 - 1 / limit
    if round(limit) < ema.RAMP:
        changed.append(f"RAMP {ema.RAMP} to {round(limit)}")
        ema.RAMP = round(limit)
    if not changed:
        return []
    return [
        f"Moving average shortened, SOLVER.EMA.{', '.join(changed)}: "
        f"{fraction_in_words(ema.MAX_SHARE)} of the run (SOLVER.EMA.MAX_SHARE)"
    ]


def find_surprises(cfg: CfgNode, num_images: int) -> list[str]:
    """Settings that do not fit a run, but are kept."""
    solver, notes = cfg.SOLVER, []
    taken = Accumulation.from_config(cfg).full * solver.IMS_PER_BATCH
    if num_images < taken:
        reason = "SOLVER.IMS_PER_BATCH"
        if taken > solver.IMS_PER_BATCH:
            reason = f"SOLVER.NOMINAL_BATCH {solver.NOMINAL_BATCH}"
        notes.append(
            f"An iteration takes {taken} images ({reason}), but there are {num_images} for "
            "training: each comes more than once; a smaller number makes more of them"
        )
    if solver.WARMUP_ITERS >= solver.MAX_ITER > 0:
        notes.append(
            f"The warm-up of {solver.WARMUP_ITERS} iterations (SOLVER.WARMUP_ITERS) is as long as "
            f"the whole run of {solver.MAX_ITER}: the full learning rate is never reached"
        )
    for key, missing in PERIODS.items():
        period = get_key(cfg, key)
        if period > solver.MAX_ITER > 0 and not (
            key == "TEST.EVAL_PERIOD" and not cfg.DATASETS.TEST
        ):
            notes.append(
                f"{key} is {period}, more than the {solver.MAX_ITER} iterations of the run: "
                f"{missing} before its end"
            )
    return notes


def fraction_in_words(fraction: float) -> str:
    """For example "a tenth", or "15 %"."""
    words = {0.1: "a tenth", 0.125: "an eighth", 0.2: "a fifth"}
    return words.get(fraction, f"{100 * fraction:.3g} %")
