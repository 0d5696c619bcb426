"""Worker processes, which end with the process that they work for."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

from torch.utils.data import get_worker_info

# Of prctl(2): the signal that a process gets when the thread that started it ends.
PR_SET_PDEATHSIG = 1
# Seconds between two looks for the parent where the kernel does not tell.
LOOK_PERIOD = 0.5

_shielded = False


def ask_for_signal(number: int) -> bool:
    """Let the kernel send this process a signal when its parent dies; whether it can (Linux).

    What counts is the thread that started this process: it must live as long as the parent.
    """
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def end_with_parent(parent: int) -> None:
    """Let this process end at once when its parent dies, whatever it is doing then.

    On Linux the kernel sees to it; elsewhere, and where the process was forked by a thread that may
    end before its parent, a thread looks for the parent, and needs Python's lock for that.

    Args:
        parent: process id of the parent, which may be gone already.
    """
    # A fork keeps the name of the thread that called it.
    by_main_thread = threading.current_thread().name == "MainThread"
    if not (by_main_thread and ask_for_signal(signal.SIGKILL)):
        threading.Thread(target=look_for_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def look_for_parent(parent: int) -> None:
    """End the process when another one has become its parent."""
    while os.getppid() == parent:
        time.sleep(LOOK_PERIOD)
    os._exit(1)


def shield_worker() -> None:
    """Let a loader's worker, if this process is one, heed SIGTERM and SIGINT of its parent alone.

    Ctrl-C and most schedulers signal all processes of a run. Workers that obeyed would take the
    batch with them that the main process needs to finish its iteration; they end with it anyway,
    also when it is killed. To be called by what loads samples; only the first call has an effect.
    """
    global _shielded
    if _shielded or get_worker_info() is None:
        return
    _shielded = True
    process = multiprocessing.parent_process()
    assert process is not None and process.pid is not None
    parent = process.pid  # that of os.getppid() changes when it is gone
    end_with_parent(parent)
    # Threads that start later inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=wait_for_parent, args=(parent,), daemon=True).start()


def wait_for_parent(parent: int) -> None:
    """End the process when the parent sends SIGTERM, as it does to workers that do not end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
