"""Parts that are not trained."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.engine import Trainer
from yolor_d2.engine.freeze import FrozenNormHook, freeze, frozen_norms


def make() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    return nn.ModuleDict({"body": block, "body2": nn.Linear(1, 1), "head": nn.Linear(1, 1)})


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        ([], 8),
        (["body"], 4),  # not body2
        (["body*"], 2),
        (["*.bias", "body.0"], 3),
        (["body.1.weight"], 7),
    ],
)
def test_names_and_patterns(patterns, trained):
    model = make()
    freeze(model, patterns)
    assert sum(p.requires_grad for p in model.parameters()) == trained


def test_an_unknown_name_is_shown_with_near_ones():
    with pytest.raises(ValueError, match=r"SOLVER\.FREEZE: 'haed'.*'head'"):
        freeze(make(), ["head.weight", "haed"])


def test_something_must_be_left():
    with pytest.raises(ValueError, match="no parameter to train"):
        freeze(make(), ["*"])


def test_only_norms_without_any_trained_parameter_are_frozen():
    model = make()
    freeze(model, ["body.1.weight"])
    assert frozen_norms(model) == []
    freeze(model, ["body"])
    assert frozen_norms(model) == [model["body"][1]]
    model.train()
    FrozenNormHook(frozen_norms(model)).before_step()
    assert not model["body"][1].training and model["body"].training


@pytest.mark.slow
def test_frozen_parts_of_a_run_stay_as_they_were(cfg):
    cfg.SOLVER.FREEZE = ["backbone.bottom_up"]
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = 3, 2  # with an evaluation in between
    os.makedirs(cfg.OUTPUT_DIR)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {
        name for name, value in trainer.model.state_dict().items() if not value.equal(before[name])
    }
    assert changed and not any(name.startswith("backbone.bottom_up.") for name in changed)
    assert "head.predict.0.weight" in changed
    assert any(name.startswith("backbone.neck") and "running_mean" in name for name in changed)
