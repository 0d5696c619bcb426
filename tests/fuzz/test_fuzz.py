"""A few seconds of each target; `python tests/fuzz/run.py` goes on for longer."""

import random
import re
from pathlib import Path

import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from fuzz.run import call_randomly
from fuzz.targets import TARGETS, Bytes, change_tree

RUN = Path(__file__).with_name("run.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_clear_errors(name, tmp_path):
    """In a process of its own, whose memory is that of imports and the target alone."""
    # A failing input is kept in the folder.
    done = processes.run([RUN, name, "--seconds", "4", "--random"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    (count,) = re.findall(r"(\d+) random inputs, no failure", done.stdout)
    assert int(count) > 10


def test_a_fault_is_found_and_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def faulty(content: bytes) -> None:
        if Bytes(content).below(3) == 1:
            raise IndexError("here")

    with pytest.raises(IndexError, match="here"):
        call_randomly(faulty, seconds=5)
    (kept,) = tmp_path.glob("crash-faulty-*")
    with pytest.raises(IndexError):
        faulty(kept.read_bytes())


def test_zeros_change_nothing_and_others_do():
    tree = {"a": [1, {"b": 2}]}
    assert change_tree(tree, Bytes(b"")) == tree
    changed = {str(change_tree(tree, Bytes(random.Random(i).randbytes(40)))) for i in range(50)}
    assert len(changed) > 5
