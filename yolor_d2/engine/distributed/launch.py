"""The processes of one training, however they were started.

torchrun and srun start them and number them in the environment (`place`); `--num-gpus` lets this
module start them. All meet in torch.distributed's own process group.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ...config import load_config
from ...d2 import RUNTIME
from ...d2 import engine as runtime
from ...d2.config import CfgNode
from ...d2.utils import comm
from ...workers import ask_for_signal
from .heartbeat import ProcessLostError
from .interrupt import SIGNALS, expect_repeated_signals
from .place import KNOCKING_TIME, MEETING_TIME, Place, bracketed, check_options, from_environment
from .watch import watched

logger = logging.getLogger(__name__)

# Of one exchange. What is slow or hangs is the business of `watch`, which knows which it is; with
# SOLVER.HANG_LIMIT 0 it is Detectron2's half hour.
EXCHANGE_TIME = timedelta(days=1)
EXCHANGE_TIME_UNWATCHED = timedelta(minutes=30)
# Seconds that processes have to end by themselves when one has failed.
GRACE = 10


def launch(work: Callable[[Any], Any], options: Any) -> Any:
    """Call `work(options)` in this process, or in each of several.

    Args:
        work: what each process does. Where this function starts them it must be importable.
        options: those of Detectron2's commands, `num_gpus`, `num_machines`, `machine_rank`,
            `dist_url`, `config_file` and `opts`; the configuration's MODEL.DEVICE says how
            processes talk to each other.

    Returns:
        What `work` returns; None where this function has started the processes.

    Raises:
        ValueError: when the environment or options contradict each other.
        RuntimeError: when several processes are requested and Detectron2 is not installed.
        SystemExit: when a signal has stopped the processes that this function has started.
    """
    place = from_environment(os.environ)
    if place is not None:
        check_options(options, place)
        launcher = os.getppid()
        # Of SLURM it is not known whether the thread that starts tasks lives as long as they do.
        follow_launcher(launcher, by_kernel=place.launcher_lasts)
        if place.world_size == 1 or RUNTIME == "builtin":
            return runtime.launch(work, place.world_size, args=(options,))
        return work_in_group(work, options, place, launcher)
    count = options.num_gpus * options.num_machines
    if count == 1 or RUNTIME == "builtin":
        return runtime.launch(work, options.num_gpus, options.num_machines, args=(options,))
    check_counts(options)
    start_processes(work, options)
    return None


def check_counts(options: Any) -> None:
    """Refuse numbers of processes, machines and GPUs that cannot be.

    Raises:
        ValueError: naming the option.
    """
    if options.num_gpus < 1 or options.num_machines < 1:
        raise ValueError(
            f"--num-gpus is {options.num_gpus} and --num-machines {options.num_machines}, expected "
            "at least 1"
        )
    if not 0 <= options.machine_rank < options.num_machines:
        raise ValueError(
            f"--machine-rank is {options.machine_rank}, expected 0 to {options.num_machines - 1}"
        )
    if options.num_machines > 1 and options.dist_url == "auto":
        raise ValueError("--dist-url is 'auto', but several machines need tcp://HOST:PORT")
    read_device(load_config(options.config_file, options.opts), options.num_gpus)


def read_device(cfg: CfgNode, local_size: int) -> str:
    """Type of the device that processes compute on, "cpu" or "cuda".

    Raises:
        ValueError: when a machine has fewer GPUs than processes.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if device.index is not None:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but each of several processes has a GPU of its "
            f"own: give {device.type!r}"
        )
    # Schedulers may show each process its own GPU alone.
    if device.type == "cuda" and 1 < torch.cuda.device_count() < local_size:
        raise ValueError(
            f"{local_size} processes on this machine (--num-gpus, torchrun --nproc-per-node, srun "
            f"--ntasks-per-node), but it has {torch.cuda.device_count()} GPUs"
        )
    return device.type


def work_in_group(work: Callable[[Any], Any], options: Any, place: Place, launcher: int) -> Any:
    """Join the process group, work, and leave it."""
    cfg = load_config(options.config_file, options.opts)
    device = read_device(cfg, place.local_size)
    begin = time.perf_counter()
    store = meet(place)
    limit = cfg.SOLVER.HANG_LIMIT
    if device == "cuda":
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        # A store may be that of an earlier start.
        store=dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=EXCHANGE_TIME if limit > 0 else EXCHANGE_TIME_UNWATCHED,
    )
    comm.create_local_process_group(place.local_size)
    comm.synchronize()
    logger.info("Processes met after %.1f s", time.perf_counter() - begin)
    with watched(store, limit, launcher, kept_by_main=not place.has_store):
        result = work(options)
    dist.destroy_process_group()
    return result


def meet(place: Place) -> dist.Store:
    """The store in which the processes meet, once all are there."""
    if place.has_store:
        url = urlsplit(place.url)
        store = dist.TCPStore(url.hostname or "", url.port or 0, timeout=place.knocking)
        store.set_timeout(MEETING_TIME)
        return store
    return next(dist.rendezvous(place.url, place.rank, place.world_size, timeout=MEETING_TIME))[0]


def follow_launcher(parent: int, *, by_kernel: bool = True) -> None:
    """Let this process get SIGTERM when what started it dies; `watch` ends it if it does not end.

    Args:
        parent: process id of the launcher.
        by_kernel: at once, where that is possible (Linux); `watch` sees to it within a second.
    """
    expect_repeated_signals()
    if by_kernel:
        ask_for_signal(signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(128 + signal.SIGTERM)


# ---- Processes that are started here


def run_store(options: Any) -> dist.Store | None:
    """The store for the processes of all machines, if it is for this machine to run it.

    It lives as long as this process, so that the others can tell what process 0 has died of.
    """
    if options.dist_url == "auto":
        options.dist_url = "tcp://127.0.0.1:0"
    url = urlsplit(options.dist_url)
    if url.scheme != "tcp" or options.machine_rank != 0:
        return None
    if url.hostname is None or url.port is None:
        raise ValueError(f"--dist-url is {options.dist_url!r}, expected tcp://HOST:PORT")
    store = dist.TCPStore(url.hostname, url.port, is_master=True, wait_for_workers=False)
    options.dist_url = f"tcp://{bracketed(url.hostname)}:{store.port}"
    return store


def start_processes(work: Callable[[Any], Any], options: Any) -> None:
    """Start the processes of this machine, and wait for their end.

    Raises:
        ProcessRaisedException: what one of them has raised; the others are ended.
        ProcessLostError: when one ends without saying why.
        SystemExit: with their code when a signal has stopped them.
    """
    store = run_store(options)
    context = mp.start_processes(
        started, args=(os.getpid(), work, options), nprocs=options.num_gpus, join=False
    )
    try:
        with signals_passed_on(context.pids()):
            while not context.join(grace_period=GRACE):
                pass
    except mp.ProcessExitedException as error:
        if error.exit_code in [128 + number for number in SIGNALS]:
            raise SystemExit(error.exit_code) from None
        end = error.signal_name or f"exit code {error.exit_code}"
        raise ProcessLostError(
            f"process {options.machine_rank * options.num_gpus + error.error_index} (process id "
            f"{error.error_pid}) has ended with {end}"
        ) from error
    del store  # not before


@contextmanager
def signals_passed_on(pids: list[int]) -> Iterator[None]:
    """Let the processes decide what SIGTERM and Ctrl-C do; this one ends after them."""

    def pass_on(number: int, _frame: object) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def started(local_rank: int, parent: int, work: Callable[[Any], Any], options: Any) -> None:
    """What a process does that `start_processes` has started."""
    follow_launcher(parent)
    size = options.num_gpus
    place = Place(
        options.machine_rank * size + local_rank,
        options.num_machines * size,
        local_rank,
        size,
        options.dist_url,
        "--num-gpus",
        has_store=options.dist_url.startswith("tcp://"),
        knocking=MEETING_TIME if options.machine_rank else KNOCKING_TIME,
    )
    work_in_group(work, options, place, parent)
