"""SpaceToDepth, by hand."""

import torch

from yolor_d2.layers import SpaceToDepth


def test_order_by_hand():
    # Two channels of 2 x 2 pixels: 0 1 / 2 3 and 10 11 / 12 13.
    x = torch.tensor([[[[0, 1], [2, 3]], [[10, 11], [12, 13]]]])
    # Groups (row 0, col 0), (row 1, col 0), (row 0, col 1), (row 1, col 1), each of both channels.
    expected = [0, 10, 2, 12, 1, 11, 3, 13]
    assert SpaceToDepth()(x).flatten().tolist() == expected


def test_cells_keep_their_place():
    x = torch.arange(4 * 6).view(1, 1, 4, 6)
    output = SpaceToDepth()(x)
    assert output.shape == (1, 4, 2, 3)
    assert output[0, 0].tolist() == [[0, 2, 4], [12, 14, 16]]  # even rows, even columns
    assert output[0, 1].tolist() == [[6, 8, 10], [18, 20, 22]]  # odd rows, even columns
    assert torch.equal(output.flatten().sort().values, torch.arange(24))  # nothing is lost
