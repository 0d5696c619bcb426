"""ConvNormAct, Residual and the two forms."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from yolor_d2.layers import ACTIVATIONS, FORM_D, FORM_Y, FORMS, ConvNormAct, Residual


@pytest.mark.parametrize(
    ("kernel_size", "stride", "size"), [(1, 1, (6, 8)), (3, 1, (6, 8)), (3, 2, (3, 4))]
)
def test_padding_keeps_or_halves_the_size(kernel_size, stride, size):
    block = ConvNormAct(3, 5, kernel_size, stride, form=FORM_D)
    assert block(torch.zeros(2, 3, 6, 8)).shape == (2, 5, *size)
    assert block.conv.bias is None


def test_order_is_convolution_norm_activation():
    """Against `torch.nn.functional`, with written-out statistics."""
    block = ConvNormAct(1, 1, 3, form=FORM_Y).eval()
    with torch.no_grad():
        block.conv.weight.copy_(torch.tensor([[[[0.0, 1, 0], [1, 2, 1], [0, 1, 0]]]]))
        block.norm.running_mean.fill_(1.0)
        block.norm.running_var.fill_(4.0)
        block.norm.weight.fill_(3.0)
        block.norm.bias.fill_(0.5)
    x = torch.tensor([[[[1.0, -2.0], [0.0, 3.0]]]])
    # The cross kernel with zero padding: 2 * own + the two neighbours inside.
    convolved = torch.tensor([[[[2 - 2 + 0, -4 + 1 + 3], [0 + 1 + 3, 6 - 2 + 0]]]])
    normed = (convolved - 1) / (4 + 1e-3) ** 0.5 * 3 + 0.5
    torch.testing.assert_close(block(x), normed * normed.sigmoid())  # SiLU


@pytest.mark.parametrize(
    ("form", "eps", "merge_norm"), [("D", 1e-4, False), ("Y", 1e-3, True), ("V7", 1e-3, False)]
)
def test_norms_of_the_forms(form, eps, merge_norm):
    norm = FORMS[form].norm(4)
    assert (norm.eps, norm.momentum) == (eps, 0.03)
    assert FORMS[form].merge_norm == merge_norm


def test_activation_is_a_choice():
    x = torch.linspace(-3, 3, 7)
    mish = replace(FORM_D, activation="mish").act()
    torch.testing.assert_close(mish(x.clone()), x * torch.tanh(F.softplus(x)))
    torch.testing.assert_close(FORM_D.act()(x.clone()), x * x.sigmoid())
    leaky = replace(FORM_D, activation="leaky_relu").act()
    torch.testing.assert_close(leaky(x.clone()), torch.where(x < 0, 0.1 * x, x))


@pytest.mark.parametrize("name", ["silu", "mish", "leaky_relu"])
def test_activations_work_in_place_without_gradients_alone(name):
    act = ACTIVATIONS[name]()
    x = torch.tensor([-1.0, 2.0])
    assert act(x).data_ptr() != x.data_ptr() and x.tolist() == [-1, 2]
    with torch.no_grad():
        assert act(x).data_ptr() == x.data_ptr() and x[0] != -1


def test_an_unknown_activation_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'relu'.*\['leaky_relu', 'mish', 'silu'\]"):
        replace(FORM_D, activation="relu").act()


def test_the_input_is_not_changed():
    """Activations work in place, on tensors of the block's own."""
    x = torch.randn(2, 4, 4, 4)
    before = x.clone()
    for block in (ConvNormAct(4, 4, form=FORM_D), Residual(4, form=FORM_D)):
        block(x)
        assert torch.equal(x, before)


def test_residual_adds_its_input():
    block = Residual(4, 2, form=FORM_D).eval()
    assert block.reduce.conv.weight.shape == (2, 4, 1, 1)
    assert block.expand.conv.weight.shape == (4, 2, 3, 3)
    nn.init.zeros_(block.expand.conv.weight)  # then norm and SiLU of zero give zero
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), x)
    assert Residual(4, form=FORM_D).reduce.conv.weight.shape == (4, 4, 1, 1)


def test_without_a_shortcut_two_convolutions_are_left():
    block = Residual(4, shortcut=False, form=FORM_D).eval()
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), block.expand(block.reduce(x)))
