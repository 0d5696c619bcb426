"""Pictures of implicit knowledge: the right values at the right places."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import cv2
import torch
from torch import nn

from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import build_network
from yolor_d2.networks.network import customise
from yolor_d2.visualize_implicit import (
    FeatureRecorder,
    draw_alignment,
    draw_tensors,
    learned_tensors,
    to_image,
)

TINY = customise("yolor_csp", width_factor=0.125, depth_factor=0.01)


def tiny(**changes):
    torch.manual_seed(0)
    return build_network(customise(TINY, **changes), 2).eval()


def test_tensors_by_place_and_level():
    network = tiny(top_down="concat network", feature_alignment="none, add, none")
    found = [(t.place, t.level, t.operator) for t in learned_tensors(network)]
    assert found == [
        *(("neck.top_down_implicit", level, "concat") for level in range(3)),
        ("neck.align", 1, "add"),
        *(("head.refine", level, "mul") for level in range(3)),
    ]
    constant = fuse_for_inference(network)  # what could not be folded can still be looked at
    assert {t.place for t in learned_tensors(constant)} == {"neck.top_down_implicit"}


def test_bars_are_the_values_of_each_anchor():
    network = tiny()
    z = torch.arange(3.0 * 7).view(1, 21, 1, 1) / 10
    network.head.refine[1].z.data.copy_(z)
    figure = draw_tensors(network, ["a", "b"])["head.refine"]
    panels = figure.axes  # levels by anchors
    assert len(panels) == 9
    bars = panels[3 + 2].patches  # level 1, anchor 2
    heights = [bar.get_height() + bar.get_y() for bar in bars]
    np.testing.assert_allclose(heights, np.arange(14, 21) / 10, atol=1e-6)
    labels = [tick.get_text() for tick in panels[0].get_xticklabels()]
    assert labels == ["x", "y", "w", "h", "objectness", "a", "b"]


def test_alignment_shows_the_shift_that_an_addition_makes():
    network = tiny()
    nn.init.constant_(network.neck.align[0].z, 3)
    places = {f"align.{i}": module for i, module in enumerate(network.neck.align)}
    with FeatureRecorder(places, cells=20) as recorder, torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    before, after = (torch.cat(x["align.0"]) for x in (recorder.before, recorder.after))
    assert before.shape == (20, network.neck.channels[0])
    torch.testing.assert_close(after - before, torch.full_like(before, 3))
    assert not network.neck.align[0]._forward_hooks
    image = to_image(draw_alignment(recorder))
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and image.float().std() > 5


def plot(*args):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "tools/plot_implicit.py", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_command(tmp_path):
    from yolor_d2.config import load_config
    from yolor_d2.d2.modeling import build_model

    size = ("MODEL.YOLOR.WIDTH_FACTOR", "0.125", "MODEL.DEVICE", "cpu")
    cfg = load_config("quick/toy_cpu.yaml", size)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "a.pth")
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((60, 90, 3), 99, np.uint8))
    command = ("--config-file", "quick/toy_cpu.yaml", "--output", tmp_path / "out", *size)
    done = plot(*command, "--images", tmp_path, "MODEL.WEIGHTS", tmp_path / "a.pth")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"backbone.neck.align.png", "head.refine.png", "alignment.png"}

    missing = plot(*command, "MODEL.WEIGHTS", tmp_path / "none.pth")
    assert missing.returncode == 1 and "none.pth" in missing.stderr
    assert "Traceback" not in missing.stderr
