"""Parameter groups and optimiser."""

from __future__ import annotations

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.engine.muon import Muon
from yolor_d2.engine.optimizer import build_optimizer, parameter_groups
from yolor_d2.layers import Implicit
from yolor_d2.networks import build_network


@pytest.mark.heavy
def test_every_parameter_is_in_exactly_one_group():
    network = build_network("yolor_ssss_s2d", 3)
    groups = {g["kind"]: g for g in parameter_groups(network, weight_decay=5e-4)}

    assert list(groups) == ["norm", "weight", "bias"]  # the reference's order
    grouped = [p for g in groups.values() for p in g["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(network.parameters()))
    assert {kind: g["weight_decay"] for kind, g in groups.items()} == {
        "norm": 0.0,
        "weight": 5e-4,
        "bias": 0.0,
    }


def test_implicit_knowledge_is_not_decayed():
    network = build_network("yolor_ssss_s2d", 3)
    groups = {g["kind"]: g["params"] for g in parameter_groups(network, weight_decay=1.0)}
    implicit = [m.z for m in network.modules() if isinstance(m, Implicit)]

    assert len(implicit) == 6  # one before and one after the prediction of each of three levels
    assert {id(z) for z in implicit} <= {id(p) for p in groups["norm"]}
    assert all(p.dim() == 4 and p.shape[2:].numel() in (1, 9) for p in groups["weight"])


@pytest.mark.parametrize("words", ["add network", "mul factorization", "mul per_anchor"])
def test_no_part_of_implicit_knowledge_is_decayed(words):
    network = build_network("yolor_ssss_s2d", 3, feature_alignment=words)
    groups = {g["kind"]: g["params"] for g in parameter_groups(network, weight_decay=1.0)}
    parts = [p for m in network.modules() if isinstance(m, Implicit) for p in m.parameters()]
    assert {id(p) for p in parts} <= {id(p) for p in groups["norm"]}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    model[0].requires_grad_(False)

    groups = parameter_groups(model, weight_decay=0.1)

    assert sum(len(g["params"]) for g in groups) == 2


def test_optimizer_follows_the_config(cfg):
    optimizer = build_optimizer(cfg, build_network("yolor_ssss_s2d", 3))

    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.01, 0.937, True)


def test_gradient_clipping_is_respected(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    layer = nn.Conv2d(1, 1, 1)
    before = layer.weight.clone()
    optimizer = build_optimizer(cfg, layer)

    layer(torch.ones(1, 1, 1, 1)).sum().backward()
    optimizer.step()

    assert torch.equal(layer.weight, before)  # every gradient was clipped to 0


def test_muon_takes_the_hidden_convolutions(cfg):
    cfg.SOLVER.OPTIMIZER = "Muon"
    network = build_network("yolor_ssss_s2d", 3)
    optimizer = build_optimizer(cfg, network)
    groups = {group["kind"]: group for group in optimizer.param_groups}

    assert isinstance(optimizer, Muon)
    assert {kind: group.get("orthogonal", False) for kind, group in groups.items()} == {
        "norm": False,
        "weight": False,
        "bias": False,
        "hidden": True,
    }
    assert (groups["hidden"]["lr"], groups["hidden"]["weight_decay"]) == (0.004, 0.01)
    assert groups["weight"]["lr"] == 0.01
    predictions = {id(conv.weight) for conv in network.head.predict}
    assert {id(p) for p in groups["weight"]["params"]} == predictions
    grouped = [p for group in groups.values() for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(network.parameters()))


def test_muon_respects_gradient_clipping(cfg):
    cfg.SOLVER.OPTIMIZER = "Muon"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.0
    cfg.SOLVER.MUON.WEIGHT_DECAY = 0.0
    layer = nn.Conv2d(1, 1, 1, bias=False)
    before = layer.weight.clone()
    optimizer = build_optimizer(cfg, layer)

    layer(torch.ones(1, 1, 1, 1)).sum().backward()
    optimizer.step()

    assert [group["kind"] for group in optimizer.param_groups] == ["hidden"]
    assert torch.equal(layer.weight, before)


def test_an_unknown_optimizer_is_refused(cfg):
    cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match="SOLVER\\.OPTIMIZER is 'Adam', expected"):
        build_optimizer(cfg, nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_fused_optimiser_of_the_cpu_gives_the_same_bits(cfg, memory_format):
    def train(fused):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        network.to(memory_format=memory_format)
        optimizer = build_optimizer(cfg, network)
        assert [group["fused"] for group in optimizer.param_groups] == [True] * 3
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = fused, False
        for _ in range(3):
            optimizer.zero_grad()
            pixels = torch.rand(2, 3, 9, 9).contiguous(memory_format=memory_format)
            network(pixels).square().sum().backward()
            optimizer.step()
        return network.state_dict()

    fused, plain = train(True), train(False)
    assert all(torch.equal(fused[name], plain[name]) for name in plain)


def test_there_is_no_fused_muon(cfg):
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.FUSED = "Muon", True
    with pytest.raises(ValueError, match=r"SOLVER\.FUSED is True, but there is no fused Muon"):
        build_optimizer(cfg, nn.Conv2d(1, 1, 1))
