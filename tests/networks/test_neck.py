"""The PAN neck: shapes, wiring, errors."""

import pytest
import torch

from yolor_d2.layers import FORM_D, FORM_V7, FORM_Y, MP, RepConv
from yolor_d2.networks import PANNeck
from yolor_d2.networks.neck import forward_with_tap


def tiny_neck(form=FORM_D, **changes):
    torch.manual_seed(0)
    options = {"widths": (4, 6, 8), "num_units": 1, "form": form}
    return PANNeck([5, 7, 9], **(options | changes))


def features(size=8):
    torch.manual_seed(1)
    return [torch.randn(2, c, size // 2**i, size // 2**i) for i, c in enumerate((5, 7, 9))]


def up(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize("form", [FORM_D, FORM_Y], ids=["D", "Y"])
def test_outputs_are_twice_as_wide_as_the_neck(form):
    neck = tiny_neck(form)
    assert neck.channels == [8, 12, 16]
    shapes = [tuple(x.shape) for x in neck(features())]
    assert shapes == [(2, 8, 8, 8), (2, 12, 4, 4), (2, 16, 2, 2)]


def test_every_output_depends_on_every_feature():
    neck = tiny_neck().eval()
    for i in range(3):
        inputs = [x.requires_grad_() for x in features()]
        neck(inputs)[i].sum().backward()
        assert all(x.grad.any() for x in inputs)


def test_wiring_of_the_meeting_points():
    """Own map first on the top-down path, arriving map first on the bottom-up path, 3x3 output.

    Against the drawing in `PANNeck`, written out with the modules of the neck.
    """
    neck = tiny_neck().eval()
    c3, c4, c5 = features()
    outputs = neck([c3, c4, c5])

    s5 = neck.spp(c5)
    s4 = neck.top_down[1](torch.cat([neck.lateral[1](c4), up(neck.reduce[1](s5))], dim=1))
    s3 = neck.top_down[0](torch.cat([neck.lateral[0](c3), up(neck.reduce[0](s4))], dim=1))
    d4 = neck.bottom_up[0](torch.cat([neck.down[0](s3), s4], dim=1))
    d5 = neck.bottom_up[1](torch.cat([neck.down[1](d4), s5], dim=1))
    for i, d in enumerate((s3, d4, d5)):
        assert torch.equal(outputs[i], neck.output[i](d) + neck.align[i].z)


# What the rows of YOLOv5 say of their necks. The widths of the features are those of the neck.
YOLOV5 = {
    "widths": (5, 7, 9),
    "form": FORM_V7,
    "spp": ("none",),
    "block": "c3_plain",
    "downsample_width": "same",
    "lateral": "none",
    "order": "upsampled_first",
    "joins": "reduced",
    "output": "none",
    "implicit": "none",
}


def test_wiring_of_yolov5():
    """No pyramid pooling, lateral and output convolutions; the arriving map first both ways; the
    bottom-up path joins what the top-down path sent to the finer level."""
    neck = tiny_neck(**YOLOV5).eval()
    assert neck.channels == [5, 7, 9]
    c3, c4, c5 = features()
    r4 = neck.reduce[1](c5)
    s4 = neck.top_down[1](torch.cat([up(r4), c4], dim=1))
    r3 = neck.reduce[0](s4)
    s3 = neck.top_down[0](torch.cat([up(r3), c3], dim=1))
    d4 = neck.bottom_up[0](torch.cat([neck.down[0](s3), r3], dim=1))
    d5 = neck.bottom_up[1](torch.cat([neck.down[1](d4), r4], dim=1))
    for ours, expected in zip(neck([c3, c4, c5]), (s3, d4, d5), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(("wide", "arriving"), [("next", [6, 8]), ("same", [4, 6])])
def test_width_of_what_arrives_on_the_way_up(wide, arriving):
    neck = tiny_neck(downsample_width=wide)
    assert [conv.conv.out_channels for conv in neck.down] == arriving
    assert [block.entry.conv.in_channels for block in neck.bottom_up] == [
        x + own for x, own in zip(arriving, (6, 8))
    ]
    assert len(neck(features())) == 3
    pooled = tiny_neck(downsample="max_pool", downsample_width="same")
    assert not list(pooled.down.parameters())


def test_yolov7_gives_the_width_inside_and_merges_branches_at_the_end():
    neck = tiny_neck(
        FORM_V7, block="elan_h", num_units=2, hidden=(2, 4, 6), downsample="mp", output="repconv",
        spp=("sppcspc",),
    )  # fmt: skip
    entries = [block.entry.conv.out_channels for block in (*neck.top_down, *neck.bottom_up)]
    assert entries == [2, 4, 4, 6]  # levels 0, 1 top-down, 1, 2 bottom-up
    assert all(type(down) is MP for down in neck.down)
    assert all(type(output) is RepConv for output in neck.output)
    assert neck.channels == [8, 12, 16]


def calls_of(module):
    """A list that notes every call of a module."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append(inputs[0]))
    return calls


def test_auxiliary_maps_come_in_training_alone():
    plain, neck = tiny_neck(), tiny_neck(auxiliary_widths=(10, 12, 14))
    names = plain.state_dict().keys()
    neck.load_state_dict(neck.state_dict() | plain.state_dict())
    assert {name.split(".")[0] for name in neck.state_dict().keys() - names} == {"auxiliary"}
    calls = [calls_of(conv) for conv in neck.auxiliary]
    for a, b in zip(plain.eval()(features()), neck.eval()(features()), strict=True):
        assert torch.equal(a, b)
    assert calls == [[], [], []]  # not even computed

    maps = neck.train()(features())
    shapes = [tuple(x.shape) for x in maps[3:]]
    assert shapes == [(2, 10, 8, 8), (2, 12, 4, 4), (2, 14, 2, 2)]
    assert neck.channels == [8, 12, 16]  # of the leads
    leads = plain.train()(features())
    assert all(torch.equal(a, b) for a, b in zip(leads, maps[:3]))


@pytest.mark.parametrize("block", ["csp_neck", "elan_h", "e_elan_h"])
def test_auxiliary_heads_read_the_way_down(block):
    """The finest map is that of the lead; of an extended block they read the second half."""
    neck = tiny_neck(block=block, num_units=2, auxiliary_widths=(10, 12, 14))
    neck.eval().training = True  # norms stay
    reads = [calls_of(conv) for conv in neck.auxiliary]
    extended = block.startswith("e_")
    made = [calls_of_output(b.second if extended else b) for b in neck.top_down]
    made.append(calls_of_output(neck.spp))
    neck(features())
    for (read,), (output,) in zip(reads, made, strict=True):
        assert torch.equal(read, output)


def calls_of_output(module):
    """As `calls_of`, of the outputs."""
    outputs = []
    module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    return outputs


def test_a_block_may_have_a_tap_of_its_own():
    class Tapped(torch.nn.Module):
        def forward_parts(self, x):
            return 2 * x, 3 * x

    x = torch.ones(1)
    assert forward_with_tap(Tapped(), x) == (2, 3)
    assert forward_with_tap(torch.nn.Identity(), x) == (1, 1)


def test_gradients_of_auxiliary_heads_reach_what_they_read_alone():
    """In E6E the half whose output they read, not the one that is added to it."""
    neck = tiny_neck(block="e_elan_h", num_units=2, auxiliary_widths=(10, 12, 14)).train()
    neck(features())[3].square().sum().backward()  # of the finest level
    assert all(p.grad is not None for p in neck.top_down[0].second.parameters())
    assert all(p.grad is None for p in neck.top_down[0].first.parameters())


@pytest.mark.parametrize("operator", ["add", "mul"])
def test_alignment_operator_is_a_choice(operator):
    assert [x.operator for x in tiny_neck(implicit=operator).align] == [operator] * 3


def test_alignment_can_differ_between_levels():
    align = tiny_neck(implicit="mul network, none, concat").align
    assert [getattr(x, "operator", "none") for x in align] == ["mul", "none", "concat"]


def test_levels_must_agree():
    with pytest.raises(ValueError, match=r"3 levels.*2 widths"):
        tiny_neck(widths=(4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_widths": (4, 6)}, r"3 levels.*2 widths \(MODEL\.YOLOR\.AUXILIARY_WIDTHS\)"),
        ({"hidden": (4, 6)}, r"3 levels.*2 widths \(MODEL\.YOLOR\.NECK_HIDDEN\): \[4, 6\]"),
        ({"spp": ("none",)}, r"MODEL\.YOLOR\.SPP.*NECK_WIDTHS.* 9, not 8"),
        ({"spp": ("pool",)}, r"SPP.*'pool'.*\['none', 'csp', 'spp', 'spp_t', 'sppcspc'\]"),
        ({"spp": ("csp", 1, 2)}, r"MODEL\.YOLOR\.SPP.*\['csp', 1, 2\]"),
        ({"spp": ("spp", (4,))}, r"MODEL\.YOLOR\.SPP.*odd and rising, got \(4,\)"),
        (
            {"downsample": "max_pool"},
            r"'max_pool' keeps its width, 4 channels, but 6.*NECK_DOWNSAMPLE_WIDTH",
        ),
        ({"downsample_width": "half"}, r"NECK_DOWNSAMPLE_WIDTH is 'half'.*'next', 'same'"),
        ({"lateral": "conv3"}, r"NECK_LATERAL is 'conv3'.*'conv', 'none'"),
        ({"order": "first"}, r"NECK_ORDER is 'first'.*'lateral_first', 'upsampled_first'"),
        ({"joins": "all"}, r"NECK_JOINS is 'all'.*'block', 'reduced'"),
        ({"output": "conv1x1"}, r"NECK_OUTPUT.*'conv1x1'.*\['none', 'conv', 'repconv'\]"),
        ({"block": "elan_x"}, r"NECK_BLOCK.*'elan_x'.*'elan_h'"),
        ({"hidden": (2, 4, 6)}, r"NECK_HIDDEN.*\[4, 1, 'csp_neck', 2\].*positional"),
    ],
)
def test_choices_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_neck(**options)
