"""Lengths in epochs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.data.accumulation import Accumulation
from yolor_d2.data.loader import count_training_images
from yolor_d2.engine import lengths
from yolor_d2.engine.lengths import iterations_for, translate_epochs


def translated(cfg, *opts, images: int = 0, monkeypatch=None):
    cfg.merge_from_list(list(opts))
    if images:
        monkeypatch.setattr(lengths, "count_training_images", lambda _: images)
    translate_epochs(cfg)
    return cfg


def test_the_lengths_of_the_base_config_are_those_of_300_epochs_of_coco(monkeypatch):
    expected = load_config("yolor_p6.yaml", ["MODEL.DEVICE", "cpu"])
    cfg = translated(
        expected.clone(),
        *("SOLVER.MAX_EPOCHS", 300, "SOLVER.WARMUP_EPOCHS", 3),
        *("SOLVER.CHECKPOINT_EPOCHS", 5, "TEST.EVAL_EPOCHS", 5),
        images=118287,
        monkeypatch=monkeypatch,
    )
    for node, key in [
        ("SOLVER", "MAX_ITER"),
        ("SOLVER", "WARMUP_ITERS"),
        ("SOLVER", "CHECKPOINT_PERIOD"),
        ("TEST", "EVAL_PERIOD"),
    ]:
        assert cfg[node][key] == expected[node][key], key


def test_lengths_on_the_toy_data_by_hand(cfg):
    """24 images in batches of 2: 12 iterations an epoch."""
    translated(
        cfg,
        *("SOLVER.MAX_EPOCHS", 10, "SOLVER.WARMUP_EPOCHS", 2, "SOLVER.WARMUP_MIN_ITERS", 5),
        *("SOLVER.CHECKPOINT_EPOCHS", 1, "TEST.EVAL_EPOCHS", 3),
        *("INPUT.AUGMENT.MOSAIC_OFF_EPOCHS", 4),
    )
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (120, 24)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (12, 36)
    assert abs(cfg.INPUT.AUGMENT.MOSAIC_OFF - 0.4) < 1e-9


def test_accumulation_is_counted_in(cfg):
    """Batches of 2, nominal 6: 3 batches an iteration, on average 2 in the warm-up."""
    translated(
        cfg,
        *("SOLVER.NOMINAL_BATCH", 6, "SOLVER.MAX_EPOCHS", 10, "SOLVER.WARMUP_EPOCHS", 2),
        *("SOLVER.WARMUP_MIN_ITERS", 1, "SOLVER.CHECKPOINT_EPOCHS", 1),
    )
    assert cfg.SOLVER.WARMUP_ITERS == 12  # 24 batches
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 4
    accumulation = Accumulation.from_config(cfg)
    assert abs(accumulation.batches_before(cfg.SOLVER.MAX_ITER) - 120) <= 1


def test_the_least_warmup_holds(cfg):
    assert translated(cfg, "SOLVER.WARMUP_EPOCHS", 1).SOLVER.WARMUP_ITERS == 1000


def test_nothing_in_epochs_changes_nothing(cfg):
    before = cfg.dump()
    assert translated(cfg).dump() == before


def test_images_without_objects_may_be_left_out(cfg, toy):
    assert count_training_images(cfg) == toy_images(toy)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert count_training_images(cfg) <= toy_images(toy)


def toy_images(toy) -> int:
    return len(list(toy.train_images.iterdir()))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.MAX_EPOCHS", -1, r"SOLVER\.MAX_EPOCHS is -1"),
        ("INPUT.AUGMENT.MOSAIC_OFF_EPOCHS", 7, "7, but the whole run has 0.5 epochs"),
    ],
)
def test_impossible_lengths_are_refused(cfg, key, value, message):
    with pytest.raises(ValueError, match=message):
        translated(cfg, key, value)


def test_a_length_that_would_be_overruled_is_refused(cfg):
    cfg.SOLVER.MAX_EPOCHS = 3
    with pytest.raises(ValueError, match=r"MAX_ITER is given.*add `SOLVER\.MAX_EPOCHS 0`"):
        translate_epochs(cfg, ["SOLVER.MAX_ITER", "4"])
    translate_epochs(cfg, ["SOLVER.BASE_LR", "0.1"])
    assert cfg.SOLVER.MAX_ITER == 36


@given(
    full=st.integers(1, 9),
    warmup=st.integers(0, 40),
    batches=st.floats(0.5, 500),
)
def test_no_number_of_iterations_comes_closer(full, warmup, batches):
    accumulation = Accumulation(full=full, warmup_iters=warmup)
    found = iterations_for(accumulation, batches)
    assert found >= 1
    distance = abs(accumulation.batches_before(found) - batches)
    for other in (found - 1, found + 1):
        if other >= 1:
            assert distance <= abs(accumulation.batches_before(other) - batches) + 1e-9
