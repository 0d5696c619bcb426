"""The PAN neck: shapes, wiring, errors."""

import pytest
import torch

from yolor_d2.layers import FORM_D, FORM_Y
from yolor_d2.networks import PANNeck


def tiny_neck(form=FORM_D, **changes):
    torch.manual_seed(0)
    options = {"widths": (4, 6, 8), "num_units": 1, "form": form}
    return PANNeck([5, 7, 9], **(options | changes))


def features(size=8):
    torch.manual_seed(1)
    return [torch.randn(2, c, size // 2**i, size // 2**i) for i, c in enumerate((5, 7, 9))]


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
    """Own map first on the way down, arriving map first on the way up, output 3x3 as a side branch.

    Against the drawing in `PANNeck`, written out with the modules of the neck.
    """
    neck = tiny_neck().eval()
    c3, c4, c5 = features()
    outputs = neck([c3, c4, c5])

    def up(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    s5 = neck.spp(c5)
    s4 = neck.top_down[1](torch.cat([neck.lateral[1](c4), up(neck.reduce[1](s5))], dim=1))
    s3 = neck.top_down[0](torch.cat([neck.lateral[0](c3), up(neck.reduce[0](s4))], dim=1))
    d4 = neck.bottom_up[0](torch.cat([neck.down[0](s3), s4], dim=1))
    d5 = neck.bottom_up[1](torch.cat([neck.down[1](d4), s5], dim=1))
    for i, d in enumerate((s3, d4, d5)):
        assert torch.equal(outputs[i], neck.output[i](d) + neck.align[i].z)


@pytest.mark.parametrize("operator", ["add", "mul"])
def test_alignment_operator_is_a_choice(operator):
    assert [x.operator for x in tiny_neck(implicit=operator).align] == [operator] * 3


def test_alignment_can_differ_between_levels():
    align = tiny_neck(implicit="mul network, none, concat").align
    assert [getattr(x, "operator", "none") for x in align] == ["mul", "none", "concat"]


def test_levels_must_agree():
    with pytest.raises(ValueError, match=r"3 levels.*2 widths"):
        tiny_neck(widths=(4, 6))
