"""The processes of a training look after each other: who dies or hangs is named, and ends all.

Each process beats: a thread tells the store, in which the processes met, what its main thread is
doing. Process 0 reads what all tell, the others read what process 0 tells. No step waits for that.

- Dead is a process of the same machine that is gone without having said so.
- Silent is one whose beats have stopped: its machine is gone, or it has been stopped.
- One hangs if its main thread stays in one stage of an iteration for too long, has come less far
  than all others, and nobody is in work of another kind, such as an evaluation.

Time is counted in beats of the one who looks, so that a job that is suspended as a whole, as
schedulers do it, goes on afterwards as if nothing had been.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta

import torch.distributed as dist

from ...d2.utils import comm
from .heartbeat import ProcessLostError, Report, main_thread_place, process_space
from .processes import process_state
from .progress import LONG, Stage, progress

logger = logging.getLogger(__name__)

# Seconds between two beats.
BEAT = 2.0
# In which a store answers that is there.
ANSWER_TIME = timedelta(seconds=10)
# Seconds that processes get to end by themselves, finishing their iteration and saving it, when
# what started them or the store is gone. Schedulers often kill after as many.
GRACE = 30.0
# The same while a checkpoint is being written.
GRACE_TO_SAVE = 300.0
# Seconds that an error of an exchange waits for the reason to show.
REASON_TIME = 10.0
# Beats without a sign of life after which a failed exchange is put down to a process.
MISSED_BEATS = 3
# Seconds for the last line of the log.
LOG_TIME = 2.0
EXIT_CODE = 1
FAULT_KEY = "fault"


class Watch:
    """The threads of this process that beat and look.

    Args:
        store: in which the processes met.
        rank: number of this process.
        world_size: number of all.
        limit: seconds, see SOLVER.HANG_LIMIT; 0 neither beats nor looks.
        launcher: process id of what started this process.
        nonce: the same in all processes, another one for each start of them.
        kept_by_main: process 0 runs the store, not what started the processes.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        *,
        limit: float,
        launcher: int,
        nonce: str,
        kept_by_main: bool = False,
    ):
        self.rank, self.world_size, self.limit = rank, world_size, limit
        self.launcher = launcher
        self.kept_by_main = kept_by_main
        # A connection of its own: one waits for another's answers otherwise.
        self.store = dist.PrefixStore(f"watch/{nonce}", store.clone())
        self.store.set_timeout(ANSWER_TIME)
        self.host, self.pid, self.space = socket.gethostname(), os.getpid(), process_space()
        self.beat_time = min(BEAT, limit / 4) if limit else BEAT
        self.beats = 0
        self.seen: Stage | None = None
        self.idle = 0.0
        self.reports: dict[int, Report] = {}
        self.silence: dict[int, float] = {}
        self.gone: set[int] = set()
        self.answered = 0  # beats after which the store had answered
        self.store_lost = False
        self.ending = threading.Event()
        self.ended, self.blames = "", False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.guard, name="guard", daemon=True)]
        if limit > 0:
            self.threads.append(threading.Thread(target=self.run, name="heart", daemon=True))

    def start(self) -> None:
        if self.limit > 0:
            self.tell()
        for thread in self.threads:
            thread.start()

    # ---- The heart

    def report(self) -> Report:
        stage = progress.now
        patience = max(self.limit, 10 * stage.slowest) * stage.patience
        return Report(
            self.beats,
            self.host,
            self.pid,
            self.space,
            stage.name,
            None if stage.position is None else list(stage.position),
            round(self.idle, 1),
            None if math.isinf(patience) else patience,
            main_thread_place() if self.idle > self.limit / 2 else "",
            self.ended,
            self.blames,
        )

    def tell(self) -> None:
        with self.lock:
            self.store.set(str(self.rank), json.dumps(asdict(self.report())))

    def run(self) -> None:
        """Beat, and look at the others, until the end."""
        while not self.ending.wait(self.beat_time):
            stage = progress.now
            self.idle = self.idle + self.beat_time if stage is self.seen else 0.0
            self.seen = stage
            self.beats += 1
            try:
                self.tell()
                self.look(range(self.world_size) if self.rank == 0 else [0])
            except dist.DistStoreError:  # no answer in time
                continue
            except (dist.DistError, RuntimeError):
                if not self.ending.is_set():
                    self.store_lost = True
                return
            self.answered = self.beats

    def look(self, ranks: range | list[int]) -> None:
        """Read what others tell; end the process if one of them is lost."""
        with self.lock:
            fault = self.store.get(FAULT_KEY).decode() if self.store.check([FAULT_KEY]) else ""
            if not fault:
                self.read(ranks, self.beat_time)
        fault = fault or self.find_fault(ranks)
        if not fault:
            return
        with self.lock:
            self.store.set(FAULT_KEY, fault)
        if self.rank == 0:  # may hold the store: the others read it first
            self.ending.wait(3 * self.beat_time)
        self.give_up(fault)

    def read(self, ranks: range | list[int], elapsed: float) -> None:
        """Take in reports; to those that have not changed, the seconds since then are added."""
        texts = self.store.multi_get([str(rank) for rank in ranks])
        for rank, text in zip(ranks, texts):
            report = Report(**json.loads(text))
            before = self.reports.get(rank)
            fresh = before is None or report.beat != before.beat or bool(report.ended)
            self.silence[rank] = 0.0 if fresh else self.silence[rank] + elapsed
            self.reports[rank] = report

    def find_fault(self, ranks: range | list[int]) -> str:
        """What is wrong with one of the processes; "" if nothing is."""
        for rank in ranks:
            report, silence = self.reports[rank], self.silence[rank]
            if report.ended or rank == self.rank:
                continue
            state = process_state(report.pid) if report.space == self.space else "unknown"
            if state == "gone":
                if rank in self.gone:  # also a beat ago, so that its last word has been read
                    return f"{report.describe(rank)} has died"
                self.gone.add(rank)
            # Work outside of iterations may hold Python's lock, so that the heart stands still.
            slow = report.limit is None or report.limit >= LONG * self.limit
            patience = self.limit * (LONG if slow and state != "stopped" else 1)
            if silence > patience:
                what = "has been stopped" if state == "stopped" else "has given no sign of life"
                return f"{report.describe(rank)} {what} for {silence:.0f} s"
        return self.find_hang(ranks) if len(ranks) == self.world_size else ""

    def find_hang(self, ranks: range | list[int]) -> str:
        """The process for which all others wait in vain; "" if there is none."""
        working = {rank: self.reports[rank] for rank in ranks if not self.reports[rank].ended}
        if any(x.limit is None or x.position is None for x in working.values()) or not working:
            return ""
        rank = min(working, key=lambda r: (working[r].position, -working[r].idle))
        report = working[rank]
        if report.idle <= report.limit:
            return ""
        return f"{report.describe(rank)} hangs, and the others wait for it"

    # ---- The end

    def give_up(self, reason: str) -> None:
        """Say why, and end this process as failed, whatever its main thread is doing."""
        line = f"{reason}: process {self.rank} (host {self.host}, process id {self.pid}) ends"
        os.write(2, f"yolor_d2: error: {line}\n".encode())
        # The main thread may hang while it holds the log, as on a file server that is gone.
        writer = threading.Thread(target=logger.error, args=(line,), daemon=True)
        writer.start()
        writer.join(LOG_TIME)
        os._exit(EXIT_CODE)

    def guard(self) -> None:
        """End this process when it would outlive what started it, or wait for a store in vain.

        A thread of its own, since a store that does not answer holds up the heart.
        """
        second = min(1.0, self.beat_time)
        alone = heart = 0.0
        answered = self.answered
        while not self.ending.wait(second):
            orphan = os.getppid() != self.launcher
            if orphan and alone == 0.0:
                # As the kernel does by itself on Linux; once more changes nothing.
                os.kill(self.pid, signal.SIGTERM)
            alone = alone + second if orphan or self.store_lost else 0.0
            grace = GRACE_TO_SAVE if progress.now.name == "checkpoint" else GRACE
            if alone > grace:
                cause = (
                    f"what started process {self.rank} (process id {self.launcher}) is gone"
                    if orphan
                    else f"the store in which the processes met is gone with {self.name_keeper()}"
                )
                self.give_up(f"{cause}; this process has not ended within {grace:.0f} s")
            heart = 0.0 if self.answered != answered or self.limit == 0 else heart + second
            answered = self.answered
            if heart > self.limit * (1 if self.keeper_is_quick() else LONG):
                self.give_up(f"{self.name_keeper()} has not answered for {heart:.0f} s")

    def name_keeper(self) -> str:
        """What runs the store."""
        if not self.kept_by_main:
            return "what started the processes"
        return self.reports[0].describe(0) if 0 in self.reports else "process 0"

    def keeper_is_quick(self) -> bool:
        """Whether the store need not be waited for: process 0 runs it, which is stopped for certain
        or was in a stage that does not take long."""
        report = self.reports.get(0)
        if report is None or self.rank == 0 or not self.kept_by_main:
            return not self.kept_by_main  # a launcher has nothing else to do
        if report.space == self.space and process_state(report.pid) == "stopped":
            return True
        return report.limit is not None and report.limit <= self.limit

    def explain(self) -> str:
        """Which process an exchange has failed for; "" if none can be named.

        It takes some seconds until the reason shows.
        """
        end = time.monotonic() + REASON_TIME
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        pause = self.beat_time / 4
        while self.limit > 0 and time.monotonic() < end:
            try:
                with self.lock:
                    if self.store.check([FAULT_KEY]):
                        return self.store.get(FAULT_KEY).decode()
                    self.read(others, pause)
            except RuntimeError:
                # Without a store nobody can tell; process 0 itself would not be asking.
                lost = self.kept_by_main and self.rank != 0
                return f"{self.name_keeper()} is gone" if lost else ""
            for rank in others:
                report = self.reports[rank]
                if report.ended and not report.blames:
                    return f"{report.describe(rank)} {report.ended}"
                if report.ended:
                    continue
                if report.space == self.space and process_state(report.pid) == "gone":
                    return f"{report.describe(rank)} has died"
                if self.silence[rank] > MISSED_BEATS * self.beat_time:
                    return f"{report.describe(rank)} gives no sign of life any more"
            time.sleep(pause)
        return ""

    def say(self, ended: str, blames: bool = False) -> None:
        """Tell the others how this process has ended; nobody looks for it any more."""
        self.ended, self.blames = ended, blames
        if self.limit > 0:
            try:
                self.tell()
            except RuntimeError:  # the store is gone: nobody is left to tell
                logger.debug("the store is gone", exc_info=True)


def is_exchange_error(error: BaseException) -> bool:
    """Whether an error means that another process did not answer, not that this one failed."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def watched(
    store: dist.Store, limit: float, launcher: int, *, kept_by_main: bool
) -> Iterator[None]:
    """Inside this context the processes look after each other; all enter and leave together.

    Args:
        store: in which the processes met.
        limit: seconds, see SOLVER.HANG_LIMIT; 0 is off.
        launcher: process id of what started this process.
        kept_by_main: process 0 runs the store, not what started the processes.

    Raises:
        ProcessLostError: in place of the error of an exchange, when another process is its reason;
            it names that process.
    """
    # Where processes are started anew with the old store, their predecessors' words do not count.
    nonce = comm.all_gather(secrets.token_hex(8))[0]
    watch = Watch(
        store,
        comm.get_rank(),
        comm.get_world_size(),
        limit=limit,
        launcher=launcher,
        nonce=nonce,
        kept_by_main=kept_by_main,
    )
    watch.start()
    try:
        yield
        watch.say("has finished")
        comm.synchronize()  # none leaves while another still needs it
    except BaseException as error:
        reason = watch.explain() if is_exchange_error(error) else ""
        if isinstance(error, SystemExit):
            said = f"has been stopped (exit code {error.code})"
        else:
            said = f"has ended: {type(error).__name__}: {error}".splitlines()[0]
        watch.say(said, blames=is_exchange_error(error))
        if reason:
            logger.error("%s; so process %d ends too", reason, watch.rank)
            raise ProcessLostError(f"{reason}; so process {watch.rank} ends too") from error
        raise
    finally:
        watch.ending.set()
