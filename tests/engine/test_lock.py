"""One run at a time in a folder; the lock is free again however its holder has ended."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from processes import Process

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.engine.distributed import lock
from yolor_d2.engine.distributed.lock import FolderInUseError, locked, take_lock

REPOSITORY = Path(__file__).parents[2]
# Holds the lock, and has a forked child that outlives it by a second, as workers may.
HOLDER = """
import os, sys, time
from pathlib import Path
from yolor_d2.engine.distributed.lock import take_lock
held = take_lock(Path(sys.argv[1]))
if os.fork() == 0:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(1)
    os._exit(0)
print("held", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path):
    process = Process(["-c", HOLDER, tmp_path], tmp_path / "output.txt", tmp_path / "errors.txt")
    assert process.wait_for_line() == "held"
    yield process
    process.kill()
    process.wait()


@pytest.mark.heavy
def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, holder):
    begin = time.monotonic()
    with pytest.raises(FolderInUseError) as caught, locked(str(tmp_path)):
        pass
    assert time.monotonic() - begin < 3
    message = str(caught.value)
    said = json.loads((tmp_path / lock.HOLDER_NAME).read_text())
    assert said["pid"] == holder.pid
    for word in (str(tmp_path), *map(str, said.values())):
        assert word in message


@pytest.mark.heavy
def test_the_lock_is_free_after_kill_9(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    begin = time.monotonic()
    take_lock(tmp_path).release()  # the child of the holder has the lock for a second
    assert time.monotonic() - begin < 4
    assert json.loads((tmp_path / lock.HOLDER_NAME).read_text())["pid"] == os.getpid()


def test_one_after_the_other(tmp_path):
    folder = tmp_path / "new"
    for _ in range(2):
        with locked(str(folder)):
            assert (folder / lock.HOLDER_NAME).exists()
        assert not (folder / lock.HOLDER_NAME).exists()


@pytest.mark.heavy
def test_a_holder_on_another_host_is_not_waited_for(tmp_path, holder):
    said = {"host": "elsewhere", "pid": 1, "started": "today", "command": "train"}
    (tmp_path / lock.HOLDER_NAME).write_text(json.dumps(said))
    with pytest.raises(FolderInUseError, match="host elsewhere, pid 1"):
        take_lock(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x"}'])
def test_a_damaged_description_does_no_harm(tmp_path, content):
    (tmp_path / lock.HOLDER_NAME).write_text(content)
    take_lock(tmp_path).release()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(str(tmp_path / "file")):
        pass
