"""Worker processes of data loaders."""

from __future__ import annotations

import os
import signal
import threading

from torch.utils.data import get_worker_info

_shielded = False


def shield_worker() -> None:
    """Let a loader's worker, if this process is one, heed SIGTERM and SIGINT of its parent alone.

    Ctrl-C and most schedulers signal all processes of a run. Workers that obeyed would take the
    batch with them that the main process needs to finish its iteration; they end with it anyway.
    To be called by what loads samples; only the first call has an effect.
    """
    global _shielded
    if _shielded or get_worker_info() is None:
        return
    _shielded = True
    # Threads that start later inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=wait_for_parent, args=(os.getppid(),), daemon=True).start()


def wait_for_parent(parent: int) -> None:
    """End the process when the parent sends SIGTERM, as it does to workers that do not end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
