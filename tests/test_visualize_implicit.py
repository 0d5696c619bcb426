"""Pictures of implicit knowledge: the right values at the right places."""

import numpy as np
import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import cv2
import torch
from torch import nn

from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import build_network
from yolor_d2.networks.network import customise
from yolor_d2.visualize.implicit import (
    FeatureRecorder,
    draw_alignment,
    draw_tensors,
    learned_tensors,
    stride_of,
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


@pytest.mark.heavy
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
    labels = [tick.get_text() for tick in panels[-1].get_xticklabels()]
    assert labels == ["x", "y", "width", "height", "objectness", "a", "b"]


def texts_apart(figure) -> int:
    """Number of the texts of a plot, of which none is over another or over the border."""
    from matplotlib.text import Text

    figure.canvas.draw()
    unseen = {  # ticks beyond the ends of an axis, which are not drawn
        label
        for panel in figure.axes
        for axis in (panel.xaxis, panel.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    shown = [(t, t.get_window_extent()) for t in texts if t not in unseen]
    border = figure.bbox
    for place, (one, box) in enumerate(shown):
        assert box.x0 >= border.x0 - 1 and box.x1 <= border.x1 + 1, one.get_text()
        for other, its in shown[:place]:
            if one.get_rotation() % 90 or other.get_rotation() % 90:
                continue  # their boxes are larger than they are
            assert not box.shrunk(0.98, 0.8).overlaps(its.shrunk(0.98, 0.8)), (one, other)
    return len(shown)


@pytest.mark.heavy
@pytest.mark.parametrize("count", [2, 12, 80])
def test_bars_can_be_compared_and_read(count):
    """One range everywhere, names for axes, strides and anchors, and texts beside each other."""
    classes = [f"a class with a rather long name {i}" for i in range(count)]
    torch.manual_seed(0)
    network = build_network(TINY, count).eval()
    network.head.refine[0].z.data[0, 0] = 3.0
    figure = draw_tensors(network, classes)["head.refine"]
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    assert figure.axes[0].get_ylim()[1] > 3
    assert [panel.get_title() for panel in figure.axes[::3]] == [
        "stride 8, anchor 1 (12 x 16 px)",
        "stride 16, anchor 1 (36 x 75 px)",
        "stride 32, anchor 1 (142 x 110 px)",
    ]
    assert {panel.get_ylabel() for panel in figure.axes[::3]} == {"multiplier"}
    assert all(panel.get_xlabel() for panel in figure.axes[-3:])
    assert texts_apart(figure) > 15
    legend = [text.get_text() for x in figure.legends for text in x.get_texts()]
    outputs = ["x", "y", "width", "height", "objectness"]
    assert legend == ([] if count <= 12 else [*outputs, "80 classes"])
    if count == 12:  # what tells the names apart is left of them
        labels = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
        assert len(set(labels)) == len(labels) and max(map(len, labels)) <= 14


@pytest.mark.heavy
def test_features_can_be_compared_and_read():
    figures = draw_tensors(tiny(top_down="concat network"), ["a", "b"])
    for name, quantity in (("neck.align", "summand"), ("neck.top_down_implicit", "value")):
        lines, histograms = figures[name].axes[::2], figures[name].axes[1::2]
        for panels in (lines, histograms):
            assert len({panel.get_ylim() for panel in panels}) == 1
            assert len({panel.get_xlim() for panel in panels}) == 1
        assert [x.get_title().split(":")[0] for x in lines] == [
            "stride 8",
            "stride 16",
            "stride 32",
        ]
        assert {x.get_ylabel() for x in lines} == {quantity}
        assert {x.get_ylabel() for x in histograms} == {"channels, %"}
        assert lines[-1].get_xlabel() == "channel, sorted by its value"
        assert histograms[-1].get_xlabel() == quantity
        assert texts_apart(figures[name]) > 20


def test_strides_are_those_of_the_module_around():
    network = tiny(top_down="mul")
    found = {name: stride_of(network, name) for name, _ in network.named_modules()}
    assert [found[f"neck.top_down_implicit.{i}"] for i in range(3)] == [8, 16, 32]
    assert [found[f"head.refine.{i}"] for i in range(3)] == [8, 16, 32]
    assert stride_of(nn.Sequential(nn.Identity()), "0") is None


@pytest.mark.heavy
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
    figure = draw_alignment(recorder, {"align.0": 8, "align.1": 16})
    assert [panel.get_title().split(":")[0] for panel in figure.axes[::2]] == [
        "align, stride 8",
        "align, stride 16",
        "align, level 2",
    ]
    assert all(panel.get_xlabel() and panel.get_ylabel() for panel in figure.axes)
    assert len({panel.get_ylim() for panel in figure.axes[::2]}) == 1
    texts_apart(figure)
    image = to_image(figure)
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and image.float().std() > 5


def plot(*args):
    return processes.run(["tools/plot_implicit.py", *args], cwd=processes.REPOSITORY)


@pytest.mark.heavy
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
