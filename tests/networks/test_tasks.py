"""Branches of further tasks on plain tensors."""

import pytest
import torch

from yolor_d2.layers import FORM_D, Implicit
from yolor_d2.networks import ClassificationBranch, EmbeddingBranch, TaskBranches
from yolor_d2.networks.branches.classification import mean_over_image

WIDTHS, STRIDES = [4, 6], [8, 16]
WINDOWS = torch.tensor([[0, 0, 32, 32], [4, 8, 12, 28]])  # xyxy


def features(seed=0):
    """Of two images in a batch of 32 x 32 pixels."""
    torch.manual_seed(seed)
    return [torch.randn(2, c, 32 // s, 32 // s) for c, s in zip(WIDTHS, STRIDES)]


def classify(**options):
    torch.manual_seed(1)
    return ClassificationBranch(
        WIDTHS, strides=STRIDES, num_classes=3, channels=5, form=FORM_D, **options
    )


def embed(**options):
    torch.manual_seed(1)
    return EmbeddingBranch(
        WIDTHS, dimension=7, num_identities=9, channels=5, form=FORM_D, **options
    )


def test_the_mean_leaves_out_the_border_of_the_batch():
    x = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]]).expand(3, 1, 2, 3)
    # 9 pixels at stride 8 touch two cells, 1 pixel one; the last image lies in the lower right.
    windows = torch.tensor([[0, 0, 16, 9], [0, 0, 24, 1], [15, 8, 20, 12]])
    means = mean_over_image(x, windows, 8)
    assert means.tolist() == [[(1 + 2 + 3 + 4) / 4], [(1 + 2 + 9) / 3], [(4 + 9) / 2]]


def test_shapes_and_lengths():
    branches = TaskBranches({"classification": classify(), "embedding": embed()})
    levels, outputs = branches(features(), [], WINDOWS)
    logits, maps = outputs["classification"], outputs["embedding"]
    assert levels == []
    assert logits.shape == (2, 3)
    assert [tuple(x.shape) for x in maps] == [(2, 7, 4, 4), (2, 7, 2, 2)]
    for level in maps:
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))


def test_what_is_off_has_no_parameters():
    branches = TaskBranches()
    assert list(branches.state_dict()) == []
    assert branches(features(), [], WINDOWS) == ([], {}) and not branches


@pytest.mark.parametrize("build", [classify, embed])
def test_implicit_knowledge_takes_part_and_learns(build):
    plain, implicit = build(), build(implicit="add")
    added = [x for x in implicit.modules() if isinstance(x, Implicit)]
    assert len(added) == 2 and not [x for x in plain.modules() if isinstance(x, Implicit)]
    count = [sum(p.numel() for p in x.parameters()) for x in (plain, implicit)]
    assert count[1] - count[0] == 2 * 5  # a value for each channel of each level

    outputs = implicit.train()(features(), WINDOWS)
    outputs = [outputs] if build is classify else outputs
    weights = [torch.randn_like(x) for x in outputs]
    sum((x * w).sum() for x, w in zip(outputs, weights)).backward()
    assert all(z.grad.abs().sum() > 0 for x in added for z in x.parameters())


def test_the_embedding_branch_needs_no_prototypes_at_inference():
    branch = EmbeddingBranch(WIDTHS, dimension=7, form=FORM_D)
    assert branch.prototypes.shape == (0, 7)
    assert len(branch(features(), WINDOWS)) == 2
