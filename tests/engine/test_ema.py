"""Moving average of the weights."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.engine.ema import EMAHook


class Counter(nn.Module):
    """One weight, one running statistic, one counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))


def step(model: Counter, hook: EMAHook) -> None:
    with torch.no_grad():
        model.weight += 1
        model.mean += 2
        model.count += 1
    hook.after_step()


@pytest.mark.parametrize(
    ("updates", "expected"),
    # Computed with the reference implementation.
    [(1, 4.9983e-4), (100, 0.0487657), (2000, 0.63205735), (10000, 0.99316273)],
)
def test_ramp(updates, expected):
    model = Counter()
    hook = EMAHook(model, decay=0.9999, ramp=2000)
    hook.before_train()
    hook.updates = updates - 1
    with torch.no_grad():
        hook.average["weight"].fill_(1.0)  # the model's weight is 0: what is left is the decay
    hook.after_step()

    assert hook.average["weight"].item() == pytest.approx(expected, rel=1e-4)


def test_average_by_hand():
    model = Counter()
    hook = EMAHook(model, decay=0.5, ramp=1)
    hook.before_train()
    step(model, hook)
    step(model, hook)

    first, second = (0.5 * (1 - math.exp(-u)) for u in (1, 2))
    expected = second * (first * 0 + (1 - first) * 1) + (1 - second) * 2
    assert hook.average["weight"].item() == pytest.approx(expected)
    assert hook.average["mean"].item() == pytest.approx(2 * expected)
    assert hook.average["count"].item() == 2  # copied


def test_applied_swaps_and_restores_even_after_an_error():
    model = Counter()
    hook = EMAHook(model, decay=0.5, ramp=1)
    hook.before_train()
    step(model, hook)
    parameter = model.weight
    average = hook.average["weight"].item()

    with pytest.raises(RuntimeError, match="evaluation failed"), hook.applied():
        assert model.weight.item() == average != 1
        assert hook.state_dict()["raw"]["weight"].item() == 1
        raise RuntimeError("evaluation failed")

    assert model.weight is parameter  # the optimiser still refers to it
    assert model.weight.item() == 1


def test_state_round_trip():
    model = Counter()
    hook = EMAHook(model, decay=0.5, ramp=1)
    hook.before_train()
    step(model, hook)
    with hook.applied():  # as while saving a checkpoint
        saved_model = {k: v.clone() for k, v in model.state_dict().items()}
        saved_hook = hook.state_dict()

    other = Counter()
    resumed = EMAHook(other, decay=0.5, ramp=1)
    other.load_state_dict(saved_model)
    resumed.load_state_dict(saved_hook)
    resumed.before_train()
    step(model, hook)
    step(other, resumed)

    assert torch.equal(model.weight, other.weight)
    assert resumed.updates == 2
    for name, value in hook.average.items():
        assert torch.equal(value, resumed.average[name])


def test_the_fused_average_is_the_same_but_for_rounding():
    plain, fused = (EMAHook(Counter(), decay=0.9, ramp=3, fused=x) for x in (False, True))
    for hook in (plain, fused):
        hook.before_train()
        for _ in range(7):
            step(hook.model, hook)
    assert fused.average["count"].item() == 7
    for name, value in plain.average.items():
        torch.testing.assert_close(fused.average[name], value)


def test_a_training_that_goes_on_averages_its_own_tensors():
    """The hook keeps references: after loading they must not be those of the state before."""
    model = Counter()
    hook = EMAHook(model, decay=0.5, ramp=1)
    hook.before_train()
    step(model, hook)
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in hook.state_dict().items()}
    average = hook.average
    hook.load_state_dict(state)
    before = {k: v.clone() for k, v in hook.average.items()}
    step(model, hook)
    assert hook.average is not average
    assert not torch.equal(hook.average["weight"], before["weight"])
