"""Learning rate and momentum over a run."""

from __future__ import annotations

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.engine.schedule import WarmupCosine


def make(max_iter: int, **kwargs) -> tuple[torch.optim.Optimizer, WarmupCosine]:
    groups = [
        {"kind": "weight", "params": [nn.Parameter(torch.zeros(1))]},
        {"kind": "bias", "params": [nn.Parameter(torch.zeros(1))]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.937, nesterov=True)
    return optimizer, WarmupCosine(optimizer, max_iter=max_iter, final_factor=0.2, **kwargs)


def run(optimizer: torch.optim.Optimizer, schedule: WarmupCosine, steps: int) -> list[tuple]:
    """(weight lr, bias lr, momentum) that each iteration is trained with."""
    rows = []
    for _ in range(steps):
        weight, bias = optimizer.param_groups
        assert weight["momentum"] == bias["momentum"]
        rows.append((weight["lr"], bias["lr"], weight["momentum"]))
        optimizer.step()
        schedule.step()
    return rows


@pytest.mark.parametrize(
    ("length", "iteration", "expected"),
    # Computed with the reference implementation for runs of 300 and 450 epochs.
    [
        (300, 0, 0.01),
        (300, 10, 0.00997809),
        (300, 50, 0.0094641),
        (300, 150, 0.006),
        (300, 299, 0.00200022),
        (450, 299, 0.00402423),
        (450, 424, 0.00206571),
        (450, 449, 0.0020001),
    ],
)
def test_cosine(length, iteration, expected):
    _, schedule = make(length)

    assert 0.01 * schedule.cosine(iteration) == pytest.approx(expected, rel=1e-5)


def test_warmup_interpolates_every_group():
    optimizer, schedule = make(100, warmup_iters=10)
    rows = run(optimizer, schedule, 12)

    assert rows[0] == (0.0, 0.1, 0.8)
    half = 0.01 * schedule.cosine(5)
    assert rows[5] == pytest.approx((half / 2, (0.1 + half) / 2, (0.8 + 0.937) / 2))
    regular = 0.01 * schedule.cosine(10)
    assert rows[10] == pytest.approx((regular, regular, 0.937))


def test_no_warmup():
    assert run(*make(100), 1) == [(0.01, 0.01, 0.937)]


def test_resumed_schedule_continues():
    straight = run(*make(30, warmup_iters=10), 30)
    optimizer, schedule = make(30, warmup_iters=10)
    run(optimizer, schedule, 7)

    resumed_optimizer, resumed = make(30, warmup_iters=10)
    resumed.load_state_dict(schedule.state_dict())
    resumed_optimizer.load_state_dict(optimizer.state_dict())

    assert run(resumed_optimizer, resumed, 23) == straight[7:]


def test_state_is_plain():
    """The checkpoint is read with weights_only, which takes plain Python values."""
    _, schedule = make(30)

    assert schedule.state_dict() == {"last_epoch": 0}
