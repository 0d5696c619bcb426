"""Implicit knowledge at every place of every kind of neck: widths fit, folding keeps outputs."""

import itertools

import pytest
import torch
from torch import nn

from yolor_d2.layers import Implicit
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import build_network
from yolor_d2.networks.network import customise

ROWS = ["yolov7_tiny", "yolov7", "yolov7_w6", "yolov7_e6e", "yolov5_s", "yolov5_s6"]
WORDS = ("none", "mul factorization", "concat network")


def build(row, *, aligned, top_down, bottom_up, refined="mul"):
    return build_network(
        customise(
            row,
            width_factor=0.125,
            depth_factor=0.25,
            feature_alignment=aligned,
            top_down=top_down,
            bottom_up=bottom_up,
            prediction_refinement=refined,
        ),
        2,
    )


@pytest.mark.heavy
@pytest.mark.parametrize("row", ROWS)
def test_widths_fit_at_every_place(row):
    for top_down, bottom_up in itertools.product(WORDS, WORDS):
        aligned = {"none": "concat"}.get(bottom_up, "mul per_anchor")
        with torch.device("meta"):
            network = build(row, aligned=aligned, top_down=top_down, bottom_up=bottom_up)
            for layer in network.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):  # keeps shapes, slow on this device
                    layer.forward = lambda features: features
            levels = network(torch.empty(2, 3, 64, 64))
        auxiliary = len(network.neck.auxiliary)
        assert [x.shape[-1] for x in levels] == [7] * (len(network.strides) + auxiliary)


@pytest.mark.parametrize("row", ROWS)
def test_folding_keeps_the_outputs(row):
    torch.manual_seed(0)
    network = build(
        row, aligned="concat", top_down="concat network", bottom_up="mul", refined="mul sizes"
    )
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.weight, 0.5, 2)
        elif isinstance(part, Implicit):
            nn.init.uniform_(part.z, -2, 2)
    network.double().eval()
    fused = fuse_for_inference(network)
    # Where several layers read a map, what was added to it stays.
    kept = {name.rpartition(".")[0] for name in fused.fusion_report.kept}
    assert kept <= {"neck.top_down_implicit", "neck.bottom_up_implicit"}
    pixels = torch.rand(1, 3, 64, 64).double()
    with torch.no_grad():
        for one, other in zip(network(pixels), fused(pixels), strict=True):
            assert (one - other).abs().max() < 1e-9 * one.abs().max()
