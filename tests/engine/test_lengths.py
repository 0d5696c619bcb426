"""Lengths in epochs, and what is fitted to the length of the run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config, read_config
from yolor_d2.data.accumulation import Accumulation
from yolor_d2.data.training_data import TrainingData
from yolor_d2.engine import lengths
from yolor_d2.engine.lengths import fit_lengths, iterations_for
from yolor_d2.engine.schedule import build_lr_scheduler

BASE = read_config("Base-YOLOR.yaml")


def translated(cfg, *opts, images: int = 0, monkeypatch=None):
    cfg.merge_from_list(list(opts))
    if images:
        monkeypatch.setattr(TrainingData, "count_images", lambda _: images)
    fit_lengths(cfg)
    return cfg


@pytest.fixture
def fit(monkeypatch):
    """Fits a configuration to a number of images as yolor-d2 train does; gives it and the lines."""

    def run(name: str, images: int, *opts: object):
        words = [str(x) for x in opts]
        cfg = load_config(name, ["MODEL.DEVICE", "cpu", *words])
        monkeypatch.setattr(TrainingData, "count_images", lambda _: images)
        return cfg, fit_lengths(cfg, words)

    return run


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
        *("SOLVER.CHECKPOINT_EPOCHS", 1, "TEST.EVAL_EPOCHS", 3, "SOLVER.WARMUP_MAX_SHARE", 0.2),
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
        *("SOLVER.WARMUP_MAX_SHARE", 0.4),
    )
    assert cfg.SOLVER.WARMUP_ITERS == 12  # 24 batches
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 4
    accumulation = Accumulation.from_config(cfg)
    assert abs(accumulation.batches_before(cfg.SOLVER.MAX_ITER) - 120) <= 1


def test_the_least_warmup_holds(cfg):
    opts = ("SOLVER.WARMUP_EPOCHS", 1, "SOLVER.WARMUP_MAX_SHARE", 0.0)
    assert translated(cfg, *opts).SOLVER.WARMUP_ITERS == 1000


def test_what_fits_stays(cfg):
    cfg.SOLVER.MAX_ITER = 300
    before = cfg.dump()
    assert translated(cfg).dump() == before


# ---- Warm-up


def test_a_warmup_of_1000_iterations_is_a_tenth_of_a_small_run(fit):
    """205 images, 300 epochs, batch 64: a thousand iterations of warm-up were the whole run."""
    cfg, notes = fit("yolor_ssss_s2d.yaml", 205)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (961, 96)
    assert any("Warm-up shortened from 1000 to 96 iterations: a tenth" in x for x in notes)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.SOLVER.BASE_LR)
    rates = build_lr_scheduler(cfg, optimizer)
    rates.last_epoch = 97
    assert rates.get_lr()[0] > 0.97 * cfg.SOLVER.BASE_LR


@given(images=st.integers(1, 3000), batch=st.integers(1, 128), nominal=st.sampled_from([0, 64]))
def test_no_run_is_warm_up_for_more_than_a_tenth(images, batch, nominal):
    cfg = BASE.clone()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.NOMINAL_BATCH = batch, nominal
    lengths.translate_epochs(cfg, images)
    assert 0 <= cfg.SOLVER.WARMUP_ITERS <= 0.1 * cfg.SOLVER.MAX_ITER
    # The run has its 300 epochs, to the iteration.
    accumulation = Accumulation.from_config(cfg)
    done = accumulation.batches_before(cfg.SOLVER.MAX_ITER)
    assert abs(done - 300 * images / batch) <= max(accumulation.full, 1)


@pytest.mark.parametrize("name", ["yolor_p6.yaml", "recipes/finetune_1280.yaml"])
def test_the_papers_recipe_on_coco_stays_as_it_is(fit, name):
    cfg, notes = fit(name, 118_287)
    assert cfg.SOLVER.WARMUP_ITERS == 5545
    assert (cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.RAMP) == (0.9999, 2000)
    assert len(notes) == 1  # the lengths
    assert "SOLVER.MAX_EPOCHS" in notes[0]


def test_a_warmup_in_iterations_is_limited_too(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 300, 1000
    assert any("from 1000 to 30" in note for note in fit_lengths(cfg))


def test_what_the_command_line_gives_stays_also_when_the_run_goes_on(cfg, tmp_path):
    opts = ["SOLVER.WARMUP_ITERS", "4", "SOLVER.EMA.DECAY", "0.9", "SOLVER.EMA.RAMP", "50"]
    cfg.merge_from_list(opts)
    fit_lengths(cfg, opts)
    saved = tmp_path / "config.yaml"
    saved.write_text(cfg.dump())
    resumed = read_config(saved)
    fit_lengths(resumed)
    for x in (cfg, resumed):
        assert x.SOLVER.WARMUP_ITERS == 4
        assert (x.SOLVER.EMA.DECAY, x.SOLVER.EMA.RAMP) == (0.9, 50)


# ---- Least number of iterations


@pytest.mark.parametrize("batch", [4, 8, 16])
def test_fast_start_is_thirteen_epochs(fit, batch):
    cfg, _ = fit("quick/fast_start.yaml", 205, "SOLVER.IMS_PER_BATCH", batch)
    assert abs(cfg.SOLVER.MAX_ITER - max(13 * 205 / batch, cfg.SOLVER.MIN_ITERS)) <= 0.5
    assert round(cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD) == 13
    assert 0.09 < cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER <= 0.1


@pytest.mark.parametrize(("images", "batch"), [(205, 32), (30, 8), (12, 64)])
def test_too_few_iterations_become_more_with_all_that_goes_by_epochs(fit, images, batch):
    cfg, notes = fit("quick/fast_start.yaml", images, "SOLVER.IMS_PER_BATCH", batch)
    least = load_config("quick/fast_start.yaml").SOLVER.MIN_ITERS
    assert least == cfg.SOLVER.MAX_ITER
    assert least // 10 == cfg.SOLVER.WARMUP_ITERS
    assert 12 <= cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD <= 14.5
    assert any(f"fewer than SOLVER.MIN_ITERS {least}: all lengths" in note for note in notes)


def test_epochs_on_the_command_line_are_taken_as_they_are(fit):
    opts = ("SOLVER.IMS_PER_BATCH", 32, "SOLVER.MAX_EPOCHS", 3)
    cfg, notes = fit("quick/fast_start.yaml", 205, *opts)
    assert round(3 * 205 / 32) == cfg.SOLVER.MAX_ITER
    assert any("the command line says so" in note for note in notes)
    before = cfg.SOLVER.MAX_ITER
    fit_lengths(cfg)  # as from the configuration that the run has saved
    assert before == cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", ["quick/fast_start.yaml", "yolor_ssss_s2d.yaml"])
@pytest.mark.parametrize("batch", [4, 32])
def test_a_run_that_goes_on_has_the_same_lengths(fit, name, batch, tmp_path):
    cfg, _ = fit(name, 205, "SOLVER.IMS_PER_BATCH", batch)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    resumed = read_config(path)
    fit_lengths(resumed)
    assert resumed.SOLVER == cfg.SOLVER
    assert resumed.TEST.EVAL_PERIOD == cfg.TEST.EVAL_PERIOD


# ---- Moving average


def mean_age(cfg) -> float:
    """Iterations by which the final average lags behind the weights, as EMAHook weighs them."""
    ema, age = cfg.SOLVER.EMA, 0.0
    for update in range(1, cfg.SOLVER.MAX_ITER + 1):
        decay = ema.DECAY * (1 - math.exp(-update / ema.RAMP))
        age = decay * (age + 1)
    return age


@pytest.mark.parametrize("iterations", [10, 260, 961, 5000, 20_000, 50_000])
def test_the_average_neither_lags_nor_is_none(iterations):
    cfg = BASE.clone()
    cfg.SOLVER.MAX_ITER = iterations
    plain = mean_age(cfg) / iterations
    notes = lengths.shorten_average(cfg)
    fitted = mean_age(cfg) / iterations
    assert 0.015 < fitted < 0.13
    assert len(notes) == 1
    assert "SOLVER.EMA.DECAY" in notes[0] or "RAMP" in notes[0]
    if iterations >= 20_000:
        assert plain > 0.15
    elif iterations < 5000:
        assert plain < 0.002
    assert lengths.shorten_average(cfg) == []  # a second time changes nothing


# ---- What is only said


@pytest.mark.parametrize(
    ("opts", "images", "message"),
    [
        (("SOLVER.IMS_PER_BATCH", 8), 5, "takes 8 images (SOLVER.IMS_PER_BATCH), but there are 5"),
        (
            ("SOLVER.IMS_PER_BATCH", 8, "SOLVER.NOMINAL_BATCH", 64),
            20,
            "takes 64 images (SOLVER.NOMINAL_BATCH 64), but there are 20",
        ),
        (("SOLVER.CHECKPOINT_PERIOD", 999), 99, "no checkpoint before its end"),
        (("TEST.EVAL_PERIOD", 999), 99, "no evaluation before its end"),
        (("VIS_PERIOD", 999), 99, "no picture of the implicit knowledge before its end"),
        (("SOLVER.WARMUP_ITERS", 260), 99, "the full learning rate is never reached"),
    ],
)
def test_what_does_not_fit_is_said(fit, opts, images, message):
    _, notes = fit("quick/ssss_320_cpu.yaml", images, *opts)
    assert any(message in note for note in notes), notes
    _, notes = fit("quick/ssss_320_cpu.yaml", 205)
    assert not any(message in note for note in notes)


def test_images_without_objects_may_be_left_out(cfg, toy):
    assert TrainingData(cfg).count_images() == toy_images(toy)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert TrainingData(cfg).count_images() <= toy_images(toy)


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
        fit_lengths(cfg, ["SOLVER.MAX_ITER", "4"])
    fit_lengths(cfg, ["SOLVER.BASE_LR", "0.1"])
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
