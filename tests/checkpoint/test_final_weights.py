"""Weights for use beside checkpoints to resume from, and how many of those are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.checkpoint.files import (
    find_fault,
    find_resumable,
    find_state_beside,
    prune_checkpoints,
)


class State:
    def state_dict(self) -> dict:
        return {"momentum": torch.zeros(1000)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


@pytest.fixture
def checkpointer(tmp_path) -> YOLORCheckpointer:
    return YOLORCheckpointer(nn.Linear(10, 10), str(tmp_path), trainer=State())


def test_weights_for_use_hold_nothing_of_the_training(checkpointer, tmp_path):
    checkpointer.save("model_0000004", iteration=4)
    checkpointer.save_weights("model_final", iteration=4)
    whole, final = tmp_path / "model_0000004.pth", tmp_path / "model_final.pth"
    assert sorted(torch.load(final, weights_only=True)) == ["iteration", "model"]
    assert final.stat().st_size < whole.stat().st_size / 2
    # A run resumes from the other one, which is found from either.
    assert find_resumable(tmp_path) == whole
    assert "holds only weights" in find_fault(final) and "model_0000004.pth" in find_fault(final)
    assert find_state_beside(final) == find_state_beside(whole) == whole


def test_without_the_checkpoint_beside_it_a_final_file_is_named(checkpointer, tmp_path):
    checkpointer.save_weights("model_final", iteration=4)
    assert find_state_beside(tmp_path / "model_final.pth") == tmp_path / "model_final.pth"
    with pytest.raises(ValueError, match=r"resumes from model_0000004\.pth"):
        find_resumable(tmp_path)


def test_the_newest_checkpoints_stay(tmp_path):
    checkpointer = YOLORCheckpointer(nn.Linear(1, 1), str(tmp_path), keep_last=2, trainer=State())
    for iteration in (4, 9, 14):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        checkpointer.save_weights("model_best", iteration=iteration)
    (tmp_path / "model_zoo.pth").write_bytes(b"")  # the user's
    checkpointer.save_weights("model_final", iteration=14)
    checkpointer.save("model_0000019", iteration=19)
    expected = ["model_0000014", "model_0000019", "model_best", "model_final", "model_zoo"]
    assert names(tmp_path) == [f"{name}.pth" for name in expected]


@pytest.mark.parametrize("last", ["model_0000004.pth", "model_final.pth", None, "garbage"])
def test_what_another_run_has_left_is_not_deleted(tmp_path, last):
    """Numbers above that of the last checkpoint are not this run's."""
    for number in (2, 4, 8, 9):
        (tmp_path / f"model_{number:07d}.pth").write_bytes(b"")
    if last is not None:
        (tmp_path / "last_checkpoint").write_text(last)
    prune_checkpoints(tmp_path, 1)
    gone = {"model_0000002.pth"} if last == "model_0000004.pth" else set()
    assert set(names(tmp_path)) == {f"model_{n:07d}.pth" for n in (2, 4, 8, 9)} - gone
