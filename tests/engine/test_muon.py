"""Muon: the orthogonalisation against the singular value decomposition, and steps by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.engine.muon import COEFFICIENTS, STEP_RMS, Muon, orthogonalize
from yolor_d2.engine.optimizer import build_optimizer


def pulled(value: float, steps: int = 5) -> float:
    """One singular value after the iteration, in ordinary floats."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        value = a * value + b * value**3 + c * value**5
    return value


def one_parameter(values, **group):
    """A parameter of these values and a Muon over it, learning rate 0.1, no momentum."""
    parameter = nn.Parameter(torch.tensor(values))
    groups = [{"params": [parameter], "orthogonal": True, **group}]
    return parameter, Muon(groups, lr=0.1)


# ---- Orthogonalisation


def test_a_diagonal_is_pulled_entry_by_entry():
    result = orthogonalize(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))  # norm 5
    expected = torch.tensor([[pulled(0.6), 0.0], [0.0, -pulled(0.8)]])
    assert torch.allclose(result, expected, atol=1e-5)


def test_one_step_by_hand():
    # Norm 1, so 3.4445 - 4.7750 + 2.0315 = 0.7010.
    result = orthogonalize(torch.tensor([[1.0, 0.0]]), steps=1)
    assert torch.allclose(result, torch.tensor([[0.7010, 0.0]]), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    short = min(shape)
    u, _ = torch.linalg.qr(torch.randn(shape[0], short, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(shape[1], short, generator=generator))
    values = torch.logspace(0, -2, short)
    result = orthogonalize(7 * u * values @ v.T)

    rotated = u.T @ result @ v  # diagonal if the singular vectors are the same
    expected = torch.tensor([pulled(x) for x in (values / values.norm()).tolist()])
    assert torch.allclose(rotated, expected.diag(), atol=2e-3)
    assert torch.linalg.svdvals(result).min() > 0.6
    assert torch.linalg.svdvals(result).max() < 1.21


def test_the_scale_of_the_input_does_not_matter():
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalize(matrix), orthogonalize(1000 * matrix), atol=1e-5)


def test_zero_stays_zero():
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


# ---- Steps


def test_a_step_by_hand():
    parameter, optimizer = one_parameter([[1.0, 2.0]], weight_decay=0.5)
    parameter.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()

    size = 0.1 * STEP_RMS * math.sqrt(2) * pulled(1.0)
    expected = [[1 * (1 - 0.1 * 0.5) - size * 0.6, 2 * (1 - 0.1 * 0.5) - size * 0.8]]
    assert torch.allclose(parameter.detach(), torch.tensor(expected), atol=1e-6)


def test_momentum_by_hand():
    # Orthogonal gradients of one row: the second direction is g + 0.5 * (0.5 * g_before + g).
    parameter, optimizer = one_parameter([[0.0, 0.0]], momentum=0.5, nesterov=True)
    for gradient in ([[4.0, 0.0]], [[0.0, 2.0]]):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor(gradient)
        optimizer.step()

    direction = (before - parameter.detach())[0]
    assert (direction[1] / direction[0]).item() == pytest.approx(3.0 / 1.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (12, 2, 2, 1)])
def test_a_convolution_counts_as_outputs_times_the_rest(shape):
    parameter, optimizer = one_parameter(torch.zeros(shape).tolist())
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()

    expected = orthogonalize(parameter.grad.flatten(1)) * -0.1 * STEP_RMS * math.sqrt(12)
    assert torch.allclose(parameter.detach().flatten(1), expected)


@pytest.mark.parametrize("rows", [4, 5])  # the last block may be smaller
def test_blocks_of_rows_are_orthogonalised_one_by_one(rows):
    gradient = torch.randn(rows, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    parameter, optimizer = one_parameter(torch.zeros(gradient.shape).tolist(), block=2)
    parameter.grad = gradient
    optimizer.step()

    for first in range(0, rows, 2):
        part = gradient[first : first + 2].flatten(1)
        expected = orthogonalize(part) * -0.1 * STEP_RMS * math.sqrt(3)
        found = parameter.detach()[first : first + 2].flatten(1)
        assert torch.allclose(found, expected)
    whole = orthogonalize(gradient.flatten(1)) * -0.1 * STEP_RMS * math.sqrt(rows)
    assert not torch.allclose(parameter.detach().flatten(1), whole)


def test_the_configuration_gives_the_block():
    cfg = load_config("quick/fast_start.yaml", ["MODEL.DEVICE", "cpu", "SOLVER.MUON.BLOCK", "64"])
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    blocks = [group.get("block") for group in build_optimizer(cfg, model).param_groups]
    assert blocks.count(64) == 1 and blocks.count(None) == len(blocks) - 1
    with pytest.raises(ValueError, match=r"SOLVER\.MUON\.BLOCK is -1"):
        load_config("quick/fast_start.yaml", ["SOLVER.MUON.BLOCK", "-1"])


def test_a_checkpoint_from_before_blocks_goes_on_without_them():
    """Whatever the configuration contains now: groups are the optimiser's own."""
    parameter, optimizer = one_parameter([[1.0, 2.0], [3.0, 4.0]])
    old = copy.deepcopy(optimizer.state_dict())
    second, resumed = one_parameter(parameter.tolist(), block=1)
    resumed.load_state_dict(old)
    for p in (parameter, second):
        p.grad = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    optimizer.step()
    resumed.step()
    assert torch.equal(parameter, second)


def test_other_groups_step_as_sgd_does():
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    optimizers = [
        Muon(models[0].parameters(), **options),
        torch.optim.SGD(models[1].parameters(), **options),
    ]
    for step in range(3):
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            model(torch.full((1, 3), float(step + 1))).square().sum().backward()
            optimizer.step()

    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)


def test_parameters_without_gradient_stay():
    parameter, optimizer = one_parameter([[1.0, 2.0]], weight_decay=0.5)
    optimizer.step()
    assert parameter.tolist() == [[1.0, 2.0]]
    assert not optimizer.state


def test_a_closure_is_called_once_with_gradients():
    parameter, optimizer = one_parameter([[1.0, 2.0]])
    calls = []

    def closure():
        calls.append(None)
        optimizer.zero_grad()
        loss = parameter.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert len(calls) == 1
    assert parameter.tolist() != [[1.0, 2.0]]


def test_a_loaded_state_goes_on_as_if_never_stopped():
    def run(optimizer, parameter, steps):
        for step in steps:
            parameter.grad = torch.tensor([[1.0 + step, 2.0], [0.0, 1.0 - step]])
            optimizer.step()

    options = {"momentum": 0.9, "nesterov": True}
    whole, optimizer = one_parameter([[1.0, 2.0], [3.0, 4.0]], **options)
    run(optimizer, whole, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    second, resumed = one_parameter(whole.tolist(), **options)
    resumed.load_state_dict(state)
    run(optimizer, whole, range(2, 4))
    run(resumed, second, range(2, 4))

    assert torch.equal(whole, second)
