"""Learning rates that hold when the batch changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config, read_config
from yolor_d2.engine.lengths import get_key
from yolor_d2.engine.optimizer import build_optimizer
from yolor_d2.engine.rates import POWERS, scale_rates

FAST = "quick/fast_start.yaml"
MEANT_FOR = 4  # images an iteration


def scaled(*opts: object):
    """`fast_start` for the command line's keys, and the lines for the log."""
    words = [str(x) for x in opts]
    cfg = load_config(FAST, ["MODEL.DEVICE", "cpu", *words])
    return cfg, scale_rates(cfg, words)


def first_step(cfg, images: int) -> dict[str, torch.Tensor]:
    """How far each weight moves in the first step with that many images, all of them alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    image = torch.rand(1, 3, 8, 8)
    optimizer = build_optimizer(cfg, model)
    # As `detection_losses`: the mean over the batch times its images.
    (model(image.expand(images, -1, -1, -1)).square().mean() * images).backward()
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("batch", [4, 8, 32])
@pytest.mark.parametrize("nominal", [0, 64])
def test_a_step_of_sgd_is_as_large_and_one_of_muon_follows_the_root(batch, nominal):
    reference, _ = scaled("SOLVER.WEIGHT_DECAY", 0.006, "SOLVER.MUON.WEIGHT_DECAY", 0.0)
    cfg = reference.clone()
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", batch, "SOLVER.NOMINAL_BATCH", nominal])
    if nominal:  # an iteration sums the batches, and decay goes by NOMINAL_BATCH already
        cfg.SOLVER.WEIGHT_DECAY *= nominal / MEANT_FOR
    images = nominal or batch
    scale_rates(cfg)
    expected, found = first_step(reference, MEANT_FOR), first_step(cfg, images)
    for name in ("1.weight", "1.bias", "2.weight", "2.bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)
    root = (images / MEANT_FOR) ** 0.5
    torch.testing.assert_close(found["0.weight"], root * expected["0.weight"], rtol=1e-2, atol=1e-5)


def test_the_log_says_what_was_changed():
    cfg, (line,) = scaled("SOLVER.IMS_PER_BATCH", 32)
    assert line.startswith("Rates for 32 images an iteration instead of 4 (SOLVER.REFERENCE_BATCH)")
    for part in ("SOLVER.BASE_LR 0.16 to 0.02", "SOLVER.MUON.BASE_LR 0.0028 to 0.00792"):
        assert part in line
    assert pytest.approx(0.05) == cfg.SOLVER.BASE_LR_END / cfg.SOLVER.BASE_LR


def test_a_run_that_goes_on_is_not_scaled_again(tmp_path):
    cfg, _ = scaled("SOLVER.IMS_PER_BATCH", 32)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    resumed = read_config(path)
    assert scale_rates(resumed) == []
    assert all(get_key(resumed, key) == get_key(cfg, key) for key in POWERS)


def test_what_the_command_line_gives_stays():
    cfg, (line,) = scaled("SOLVER.IMS_PER_BATCH", 32, "SOLVER.BASE_LR", 0.05)
    assert cfg.SOLVER.BASE_LR == 0.05
    assert "SOLVER.BASE_LR 0" not in line
    assert pytest.approx(0.0028 * 8**0.5) == cfg.SOLVER.MUON.BASE_LR


@pytest.mark.parametrize("batch", [4, 64])
def test_the_papers_recipe_is_left_to_its_nominal_batch(batch):
    cfg = load_config("yolor_p6.yaml", ["SOLVER.IMS_PER_BATCH", str(batch), "MODEL.DEVICE", "cpu"])
    before = cfg.dump()
    assert scale_rates(cfg) == []
    assert cfg.dump() == before


def test_a_script_that_does_not_scale_is_told(caplog):
    cfg = load_config(FAST, ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "32"])
    build_optimizer(cfg, nn.Conv2d(1, 1, 1))
    assert "meant for 4 images an iteration (SOLVER.REFERENCE_BATCH), but it has 32" in caplog.text
    caplog.clear()
    scale_rates(cfg)
    build_optimizer(cfg, nn.Conv2d(1, 1, 1))
    assert caplog.text == ""


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match=r"SOLVER\.REFERENCE_BATCH is -8, expected 0"):
        scaled("SOLVER.REFERENCE_BATCH", -8)
