"""Who is named when processes of a training die, fall silent or hang."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch.distributed as dist

from yolor_d2.engine.distributed import watch as module
from yolor_d2.engine.distributed.heartbeat import Report, process_space
from yolor_d2.engine.distributed.progress import LONG, Progress, progress
from yolor_d2.engine.distributed.watch import Watch, is_exchange_error

LIMIT = 40.0


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def watch(store) -> Watch:
    """That of process 0 of three, whose threads do not run."""
    return make(store, 0)


def make(store: dist.Store, rank: int, limit: float = LIMIT) -> Watch:
    return Watch(store, rank, 3, limit=limit, launcher=os.getppid(), nonce="n")


def report(rank: int, **given: object) -> Report:
    """A process on another host, in the gradients of iteration 7."""
    stage = dict(stage="iteration 7: gradients", position=[7, 2], idle=0.0, limit=LIMIT)
    return Report(**{"beat": 1, "host": f"h{rank}", "pid": 9, "space": "?", **stage, **given})


def tell(watch: Watch, *reports: Report, elapsed: float = 2.0) -> str:
    for rank, given in enumerate(reports):
        watch.store.set(str(rank), json.dumps(dataclasses.asdict(given)))
    watch.read(range(3), elapsed)
    return watch.find_fault(range(3))


def test_silence(watch):
    reports = [report(rank) for rank in range(3)]
    assert tell(watch, *reports) == ""
    # Process 1 tells nothing new any more.
    for beat in range(2, 12):
        reports = [report(0, beat=beat), report(1), report(2, beat=beat)]
        found = tell(watch, *reports, elapsed=4.0)
        assert (found == "") == (beat <= 11), beat
    found = tell(watch, *reports[:2], report(2, beat=99), elapsed=4.0)
    assert found.startswith("process 1 (host h1, process id 9; at its last sign of life")
    assert "no sign of life for 44 s" in found


def test_silence_outside_of_iterations_may_last_longer(watch):
    long = dict(stage="evaluation", position=None, limit=None)
    tell(watch, report(0), report(1, **long), report(2))
    for beat in range(2, 2 + LONG):
        fresh = dict(beat=beat, **long)
        assert not tell(
            watch, report(0, **fresh), report(1, **long), report(2, **fresh), elapsed=LIMIT
        )
    fresh["beat"] += 1
    found = tell(watch, report(0, **fresh), report(1, **long), report(2, **fresh), elapsed=LIMIT)
    assert found.startswith("process 1 (") and "in evaluation" in found


@pytest.mark.heavy
def test_a_dead_process_of_this_machine_needs_no_silence(watch):
    child = subprocess.Popen([sys.executable, "-c", ""])
    here = dict(space=process_space(), pid=child.pid)
    time.sleep(1)  # a zombie now
    found = [tell(watch, report(0, beat=i), report(1, **here), report(2, beat=i)) for i in (1, 2)]
    child.wait()
    assert found[0] == "" and "process 1 (host h1" in found[1] and "has died" in found[1]


def test_whoever_has_said_goodbye_is_not_missed(watch):
    gone = report(1, ended="has finished")
    for beat in range(30):
        assert not tell(watch, report(0, beat=beat), gone, report(2, beat=beat), elapsed=LIMIT)


def test_the_one_that_has_come_least_far_hangs(watch):
    stuck = dict(idle=LIMIT + 1)
    behind = report(2, stage="iteration 7: loading data", position=[7, 0], **stuck)
    found = tell(watch, report(0, **stuck), report(1, **stuck), behind)
    assert "process 2" in found and "iteration 7: loading data" in found and "hangs" in found
    # Not yet; and not the others, however long they have waited.
    behind = dataclasses.replace(behind, idle=LIMIT - 1)
    assert tell(watch, report(0, **stuck), report(1, **stuck), behind) == ""
    # Process 0 writes a checkpoint, for which all wait.
    saving = report(0, stage="checkpoint", position=None, limit=None, **stuck)
    assert tell(watch, saving, report(1, **stuck), report(2, **stuck)) == ""


def test_limits_of_stages():
    now = Progress()
    assert now.now.patience == float("inf")
    now.begin(5)
    now.stage("loading data")
    assert now.now.position == (5, 0) and now.now.patience == LONG  # the first iteration
    now.end()
    now.begin(6)
    now.stage("loading data")
    time.sleep(0.05)
    before = now.now
    assert before.patience == 1 and before.slowest == 0
    with now.during("checkpoint"):
        assert now.now.patience == float("inf")
    assert now.now.position == before.position and now.now.since > before.since
    now.stage("gradients")
    assert now.now.position == (6, 1)
    now.end()
    assert now.now.slowest >= 0.05
    now.always_slow = True
    now.stage("x")
    assert now.now.patience == LONG


def test_slow_steps_have_longer_limits(watch, monkeypatch):
    stage = dataclasses.replace(progress.now, patience=1, slowest=30.0)
    monkeypatch.setattr(progress, "now", stage)
    assert watch.report().limit == 300
    monkeypatch.setattr(progress, "now", dataclasses.replace(stage, slowest=1.0))
    assert watch.report().limit == LIMIT


def test_a_fault_reaches_all(store, monkeypatch):
    """Process 2 finds what process 0 has found, and ends."""
    ended = []
    monkeypatch.setattr(Watch, "give_up", lambda self, reason: ended.append((self.rank, reason)))
    first, last = make(store, 0, limit=0.4), make(store, 2, limit=0.4)
    for watch, others in [(first, [1, 2]), (last, [0, 1])]:
        for rank in others:
            given = report(rank, limit=0.4)
            watch.store.set(str(rank), json.dumps(dataclasses.asdict(given)))
        watch.tell()
    for _ in range(8):
        first.look(range(3))
        if ended:
            break
    last.look([0])
    assert [rank for rank, _ in ended] == [0, 2]
    assert ended[0][1] == ended[1][1] and "process 1" in ended[0][1]


def test_the_reason_of_a_failed_exchange(store, monkeypatch):
    monkeypatch.setattr(module, "REASON_TIME", 1.0)
    watch = make(store, 0, limit=0.4)
    others = [report(0), report(1), report(2, ended="has ended: OSError: disk", blames=True)]
    assert explain(watch, *others[:2], dataclasses.replace(others[2], blames=False)) == (
        f"{others[2].describe(2)} has ended: OSError: disk"
    )
    # One that only blames others is not the reason; the silent one is.
    found = explain(watch, *others)
    assert found.startswith("process 1 (") and "no sign of life any more" in found


def explain(watch: Watch, *reports: Report) -> str:
    for rank, given in enumerate(reports):
        watch.store.set(str(rank), json.dumps(dataclasses.asdict(given)))
    watch.reports.clear()
    return watch.explain()


def test_errors_of_exchanges():
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]")
    assert is_exchange_error(gloo) and is_exchange_error(dist.DistStoreError("timeout"))
    assert not is_exchange_error(RuntimeError("shapes")) and not is_exchange_error(OSError("gloo"))
