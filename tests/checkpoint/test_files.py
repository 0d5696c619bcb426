"""Checkpoint files: written completely or not at all, and which one a run resumes from."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import nn

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.checkpoint.files import find_fault, find_not_finite, find_resumable
from yolor_d2.files.writing import atomic_write, require_writable

REPOSITORY = Path(__file__).parents[2]


class Kept:
    """Something that is saved along."""

    def state_dict(self) -> dict:
        return {"kept": [1, 2.5, "three"]}

    def load_state_dict(self, state: dict) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of iterations 4 and 9."""
    checkpointer = YOLORCheckpointer(nn.Linear(64, 64), str(tmp_path), trainer=Kept())
    for iteration in (4, 9):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


def resumed(folder: Path) -> str:
    checkpointer = YOLORCheckpointer(nn.Linear(64, 64), str(folder), trainer=Kept())
    assert checkpointer.has_checkpoint()
    return Path(checkpointer.get_checkpoint_file()).name


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    """Another byte within the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


# ---- Writing


def test_nothing_appears_under_the_name_before_all_is_written(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"a\.pth.*No space left.*intact"),
        (KeyboardInterrupt("Ctrl-C"), "Ctrl-C"),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, error, expected):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with pytest.raises(type(error), match=expected), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    with atomic_write(Path("/dev/null")) as file:
        file.write(b"gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="/dev/full"), atomic_write(Path("/dev/full")) as file:
        file.write(b"too much")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    require_writable(tmp_path / "new" / "a.json")
    assert (tmp_path / "new").is_dir() and not (tmp_path / "new" / "a.json").exists()
    with pytest.raises(IsADirectoryError, match="expected a file to write"):
        require_writable(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        require_writable(tmp_path / "file" / "a.json")


FULL_DISK = """
import resource, sys
from torch import nn
from yolor_d2.checkpoint import YOLORCheckpointer
checkpointer = YOLORCheckpointer(nn.Linear(64, 64), sys.argv[1])
checkpointer.save("model_0000004", iteration=4)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
checkpointer.save("model_0000009", iteration=9)
"""


@pytest.mark.heavy
def test_a_disk_that_takes_no_more_is_named_and_earlier_files_stay(tmp_path):
    """A limit on the size of files stands for the full disk; the error differs in its number."""
    done = processes.run(["-c", FULL_DISK, tmp_path])
    last_line = done.stderr.strip().splitlines()[-1]
    assert "model_0000009.pth" in last_line and "File too large" in last_line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert torch.load(tmp_path / "model_0000004.pth", weights_only=True)["iteration"] == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_written(run, value):
    model = nn.Linear(64, 64)
    checkpointer = YOLORCheckpointer(model, str(run))
    with torch.no_grad():
        model.weight[3, 5] = value
    with pytest.raises(FloatingPointError, match=r"model_0000014\.pth.*model/weight"):
        checkpointer.save("model_0000014", iteration=14)
    assert not list(run.glob("model_0000014*"))
    assert resumed(run) == "model_0000009.pth"


def test_the_place_of_a_value_that_is_not_finite():
    good = {"a": [torch.ones(2), {"b": torch.tensor([1, 2])}], "c": float("nan")}
    assert find_not_finite(good) is None
    # The sum overflows, the values do not.
    assert find_not_finite({"a": torch.full((3,), 3e38)}) is None
    good["a"][1]["d"] = torch.tensor([0.0, -torch.inf])
    assert find_not_finite(good) == "a/1/d"


# ---- Resuming


def test_the_last_checkpoint_is_taken_without_a_warning(run, caplog):
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == "model_0000009.pth"
    assert not caplog.records


def test_an_empty_folder_has_none(tmp_path):
    assert find_resumable(tmp_path) is None
    (tmp_path / "model_best.pth").write_bytes(b"")
    assert find_resumable(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 17, b"model_0000005.pth", b"../x/model_0000009.pth", b"\xff\xfe"]
)
def test_a_broken_note_falls_back_to_the_newest(run, content, caplog):
    (run / "last_checkpoint").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == "model_0000009.pth"
    assert "last_checkpoint" in caplog.text and "model_0000009.pth" in caplog.text


def test_a_missing_note_falls_back_to_the_newest(run, caplog):
    (run / "last_checkpoint").unlink()
    # Neither the name nor the time tells which is the newest.
    (run / "model_0000009.pth").rename(run / "model_0000001.pth")
    assert resumed(run) == "model_0000001.pth"
    assert "last_checkpoint is missing" in caplog.text


@pytest.mark.parametrize("damage", [tear, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_broken_checkpoint_falls_back_to_the_one_before(run, damage, caplog):
    damage(run / "model_0000009.pth")
    assert resumed(run) == "model_0000004.pth"
    assert "model_0000009.pth" in caplog.text and "model_0000004.pth" in caplog.text


def test_when_all_are_broken_the_run_does_not_start_anew(run):
    for path in run.glob("*.pth"):
        tear(path)
    with pytest.raises(
        ValueError,
        match=r"model_0000004\.pth.*To start anew, give another OUTPUT_DIR or --overwrite",
    ):
        find_resumable(run)


def test_weights_alone_are_no_run(tmp_path):
    torch.save({"model": {}}, tmp_path / "model_final.pth")
    assert find_fault(tmp_path / "model_final.pth") == "it holds no iteration, trainer"


def test_temporaries_are_removed_when_a_run_goes_on(run):
    leftovers = [run / "model_0000014.pth.tmp", run / "last_checkpoint.tmp"]
    other = run / "notes.tmp"
    for path in (*leftovers, other):
        path.write_bytes(b"")
    YOLORCheckpointer(nn.Linear(64, 64), str(run), trainer=Kept()).resume_or_load("", resume=True)
    assert not any(path.exists() for path in leftovers)
    assert other.exists()
