"""What a training process reports with each beat, see `watch`."""

from __future__ import annotations

import os
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path


class ProcessLostError(OSError):
    """An exchange failed since another process has died, or has ended with an error."""


@dataclass
class Report:
    """What a process tells with a beat.

    Attributes:
        beat: number of the beat.
        host, pid: which process it is.
        space: where the number of the process counts, as containers count for themselves.
        stage: what its main thread is doing.
        position: see `progress.Stage`.
        idle: seconds since the main thread came there.
        limit: seconds that this may last; None without limit.
        place: line of code at which the main thread is, if it has been idle for long.
        ended: "" while it works, then how it has ended.
        blames: it has ended since another one did.
    """

    beat: int
    host: str
    pid: int
    space: str
    stage: str
    position: list[int] | None
    idle: float
    limit: float | None
    place: str = ""
    ended: str = ""
    blames: bool = False

    def describe(self, rank: int) -> str:
        """Which process it is, and what it was doing."""
        place = f", {self.place}" if self.place else ""
        return (
            f"process {rank} (host {self.host}, process id {self.pid}; at its last sign of life "
            f"for {self.idle:.0f} s in {self.stage}{place})"
        )


def process_space() -> str:
    """Tells apart machines and containers, each of which numbers its own processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def main_thread_place() -> str:
    """File, line and function of this project at which the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None and "yolor_d2" not in frame.f_code.co_filename:
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
