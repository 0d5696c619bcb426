"""The anchor head: layout of the outputs, start of the biases, errors."""

import pytest
import torch
from torch import nn

from yolor_d2.networks import AnchorHead

STRIDES = (8, 16, 32, 64)
# ln(8 / (640 / stride)^2): 8 objects among the cells of a 640 px image.
OBJECTNESS = (-6.684612, -5.298317, -3.912023, -2.525729)


def build_head(num_classes=2, **changes):
    options = {"strides": (8, 16), "num_anchors": 3, "num_classes": num_classes}
    return AnchorHead([4, 6], **(options | changes))


# ln(0.6 / (K - 0.99)); one class starts above zero.
@pytest.mark.parametrize(("num_classes", "class_start"), [(80, -4.880400), (1, 4.094345)])
def test_biases_start_from_plausible_frequencies(num_classes, class_start):
    channels, outputs = (4, 6, 8, 10), 3 * (5 + num_classes)
    torch.manual_seed(0)
    defaults = [nn.Conv2d(c, outputs, 1) for c in channels]  # PyTorch's own start stays below
    torch.manual_seed(0)
    head = AnchorHead(channels, strides=STRIDES, num_anchors=3, num_classes=num_classes)
    for conv, default, objectness in zip(head.predict, defaults, OBJECTNESS):
        assert torch.equal(conv.weight, default.weight)
        added = (conv.bias - default.bias).view(3, 5 + num_classes)
        expected = torch.tensor([0, 0, 0, 0, objectness] + [class_start] * num_classes)
        torch.testing.assert_close(added, expected.expand(3, -1), atol=2e-6, rtol=0)


def test_outputs_are_anchor_major():
    head = build_head()  # 3 anchors of 5 + 2
    features = [torch.randn(2, 4, 4, 6), torch.randn(2, 6, 2, 3)]
    levels = head(features)
    assert [tuple(x.shape) for x in levels] == [(2, 3, 4, 6, 7), (2, 3, 2, 3, 7)]
    flat = head.refine[0](head.predict[0](features[0]))  # (2, 21, 4, 6)
    # Anchor 1, row 3, column 5, output 4 is channel 1 * 7 + 4.
    assert levels[0][0, 1, 3, 5, 4] == flat[0, 11, 3, 5]


def test_refinement_multiplies_the_outputs():
    head = build_head()
    features = [torch.randn(1, 4, 2, 2), torch.randn(1, 6, 1, 1)]
    before = head(features)
    with torch.no_grad():
        for refine in head.refine:
            refine.z.mul_(2)
    for doubled, level in zip(head(features), before):
        torch.testing.assert_close(doubled, 2 * level)


def test_without_refinement_the_convolution_stands_alone():
    head = build_head(implicit="none")
    assert {name.split(".")[0] for name, _ in head.named_parameters()} == {"predict"}


def test_channels_last_features():
    head = build_head()
    features = [torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)]
    last = [x.to(memory_format=torch.channels_last) for x in features]
    for a, b in zip(head(features), head(last)):
        torch.testing.assert_close(a, b)


def test_the_number_of_classes_must_be_positive():
    with pytest.raises(ValueError, match="num_classes is 0"):
        build_head(num_classes=0)


def test_auxiliary_features_get_predictions_of_their_own_behind_the_leads():
    head = build_head(auxiliary=(5, 7))
    names = {name.rsplit(".", 1)[0] for name in head.state_dict() if "auxiliary" in name}
    assert names == {"auxiliary.0", "auxiliary.1"}  # without implicit knowledge
    leads = [torch.randn(2, 4, 4, 6), torch.randn(2, 6, 2, 3)]
    others = [torch.randn(2, 5, 4, 6), torch.randn(2, 7, 2, 3)]
    levels = head([*leads, *others])
    assert [tuple(x.shape) for x in levels] == [(2, 3, 4, 6, 7), (2, 3, 2, 3, 7)] * 2
    assert levels[3][0, 1, 1, 2, 4] == head.auxiliary[1](others[1])[0, 11, 1, 2]
    alone = head(leads)  # as in evaluation
    assert len(alone) == 2 and all(torch.equal(a, b) for a, b in zip(alone, levels))
