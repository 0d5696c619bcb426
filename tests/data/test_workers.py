"""Workers end with their parent, whatever they are doing."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Process

REPOSITORY = Path(__file__).parents[2]

LOADER = """
import os, sys, threading, time
from torch.utils.data import DataLoader, Dataset
from yolor_d2.workers import shield_worker

class Samples(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        shield_worker()
        if "sleep" in sys.argv and index > 20:
            time.sleep(1000)
        return index

def main():
    batches = iter(DataLoader(Samples(), num_workers=8, batch_size=1, prefetch_factor=2))
    for _ in range(16):
        next(batches)
    time.sleep(1)  # queues are full
    print(*[x.pid for x in batches._workers], flush=True)
    time.sleep(1000)

if "thread" in sys.argv:
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
main()
"""

POOL = """
import os, time
from yolor_d2.files.inspection import process_pool

def work(number):
    time.sleep(0.2)
    return os.getpid()

with process_pool(4) as pool:
    print(*set(pool.map(work, range(8))), flush=True)
    list(pool.map(time.sleep, [1000] * 4))
"""


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.heavy
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
    ("program", "arguments"),
    [(LOADER, []), (LOADER, ["sleep"]), (LOADER, ["thread"]), (POOL, [])],
    ids=["full queues", "asleep", "forked by a thread", "pool"],
)
def test_killed_parent(program, arguments, tmp_path):
    pytest.importorskip("yolor_d2.d2.config")
    process = Process(["-c", program, *arguments], tmp_path / "output.txt", tmp_path / "errors.txt")
    pids = [int(word) for word in process.wait_for_line().split()]
    assert len(pids) >= 2 and all(map(is_there, pids))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 2
    while (left := [pid for pid in pids if is_there(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.heavy
def test_signals_of_others_are_not_heeded(tmp_path):
    """Ctrl-C reaches all processes of a terminal; the workers go on working for their parent."""
    process = Process(["-c", LOADER], tmp_path / "output.txt", tmp_path / "errors.txt")
    pids = [int(word) for word in process.wait_for_line().split()]
    for number in (signal.SIGTERM, signal.SIGINT):
        for pid in pids:
            os.kill(pid, number)
    time.sleep(0.3)
    assert all(map(is_there, pids))
    process.kill()
    process.wait()
