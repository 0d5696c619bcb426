"""A simulated cluster: what many processes cost, from what a few cost here."""

from __future__ import annotations

import argparse
import builtins
import io
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..checkpoint import YOLORCheckpointer
from ..config import load_config
from ..d2.data import register_coco_instances
from ..data.loader import build_training_dataset
from ..datasets.fingerprint import take_fingerprint
from ..datasets.open_files import forget_files
from ..datasets.prepared_copies import keep_copies_in
from ..doctor.quick import quick_check
from ..engine import Trainer
from ..engine.distributed.processes import any_process
from ..engine.ema import EMAHook
from ..environment import describe_machine
from .report import Report
from .start import NUM_CLASSES, write_data_set

GB = 1e9
# Processes of a machine in the tables, and of the whole cluster.
PER_MACHINE = 8
CLUSTERS = (8, 64, 512)
# Processes that are started here, to see how an exchange grows.
STARTED = (2, 4, 8)
# Exchanges that are timed.
EXCHANGES = 200


@dataclass
class FarFileSystem:
    """A folder that answers late: each question about a file in it takes some time.

    Attributes:
        folder: whose files are far away.
        latency: seconds.
        questions: how often a file was looked up or opened.
    """

    folder: Path
    latency: float
    questions: int = 0

    def ask(self, function: Callable) -> Callable:
        def call(path, *args, **options):
            name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if isinstance(name, str) and name.startswith(str(self.folder)):
                self.questions += 1
                time.sleep(self.latency)
            return function(path, *args, **options)

        return call

    @contextmanager
    def mounted(self) -> Iterator[FarFileSystem]:
        """Inside this context Python's own questions take so long."""
        covered = [(os, name) for name in ("stat", "lstat", "open", "listdir")]
        covered += [(builtins, "open"), (io, "open")]
        originals = [getattr(owner, name) for owner, name in covered]
        for (owner, name), original in zip(covered, originals):
            setattr(owner, name, self.ask(original))
        try:
            yield self
        finally:
            for (owner, name), original in zip(covered, originals):
                setattr(owner, name, original)


def timed(function: Callable, far: FarFileSystem | None = None) -> dict[str, float]:
    """CPU and wall seconds of a call, and its questions to a far file system."""
    asked = 0 if far is None else far.questions
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return {
        "CPU s": time.process_time() - cpu,
        "s": time.perf_counter() - wall,
        "questions": (0 if far is None else far.questions) - asked,
    }


def measure_start(folder: Path, images: int, boxes: int, latency: float) -> dict[str, dict]:
    """What the start of the data costs the first process of a machine, its others, and process 0
    beyond that; the file system is so far away."""
    path, root = write_data_set(folder, images, boxes, polygons=False)
    shutil.rmtree(folder / "copies", ignore_errors=True)  # of an earlier measurement
    keep_copies_in(folder / "copies")
    name = f"cluster/{images}"
    register_coco_instances(name, {}, str(path), str(root))
    cfg = load_config("quick/ssss_320_cpu.yaml")
    cfg.MODEL.YOLOR.NUM_CLASSES, cfg.DATASETS.TRAIN = NUM_CLASSES, (name,)
    times = {}
    far = FarFileSystem(folder, latency)
    with far.mounted():
        for kind in ("first of a machine", "each other process"):
            forget_files()
            times[kind] = timed(lambda: build_training_dataset(cfg), far)
        dataset = build_training_dataset(cfg)

        def beyond() -> None:
            quick_check(name, str(path), str(root), train=True)
            take_fingerprint(dataset, [], [str(root)])

        times["process 0 beyond that"] = timed(beyond, far)
    keep_copies_in(None)
    return times


def exchange(rank: int, world_size: int, store: str, values: int, results: str) -> None:
    """What one of several processes does."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    dist.barrier()
    met = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(EXCHANGES):
        any_process([False, False])
    vote = (time.perf_counter() - begin) / EXCHANGES
    gradients = torch.zeros(values)
    dist.all_reduce(gradients)
    begin = time.perf_counter()
    dist.all_reduce(gradients)
    sent = time.perf_counter() - begin
    if rank == 0:
        torch.save({"met": met, "vote": vote, "gradients": sent}, results)
    dist.destroy_process_group()


def measure_exchanges(values: int) -> dict[int, dict[str, float]]:
    """Seconds of meeting, of the vote in each step, and of summing so many float32 gradients, by
    number of processes on this machine."""
    by_size = {}
    with tempfile.TemporaryDirectory() as folder:
        for world_size in STARTED:
            results = f"{folder}/results_{world_size}"
            arguments = (world_size, f"{folder}/store_{world_size}", values, results)
            mp.start_processes(exchange, args=arguments, nprocs=world_size, start_method="spawn")
            by_size[world_size] = torch.load(results, weights_only=True)
    return by_size


def measure_checkpoint(config: str, folder: Path) -> dict[str, float]:
    """Parameters of a model, and size and seconds of its checkpoint with average and momentum."""
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)])
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average = EMAHook(model, decay=0.999, ramp=2000)
    average.before_train()  # from now on beside the weights themselves
    checkpointer = YOLORCheckpointer(
        model, str(folder), averaged=average.applied, average=average, optimizer=optimizer
    )
    spent = timed(lambda: checkpointer.save("model_0000000", iteration=0))
    size = (folder / "model_0000000.pth").stat().st_size
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": count, "bytes": size, **spent}


def grow(times: dict[int, float], processes: int) -> float:
    """An exchange of a few bytes among more processes than were started: it takes rounds, as many
    as the number of processes has binary digits, each as long as the last that was measured."""
    most = max(times)
    if processes <= most:
        return times[processes]
    return times[most] * math.log2(processes) / math.log2(most)


def simulate(
    processes: int,
    start: dict[str, dict],
    exchanges: dict[int, dict[str, float]],
    checkpoint: dict[str, float],
    *,
    file_bytes: int,
    copy_bytes: int,
    latency: float,
    bandwidth: float,
) -> dict[str, float]:
    """A row of the table.

    Args:
        processes: of the cluster, `PER_MACHINE` on each machine.
        start, exchanges, checkpoint: what was measured.
        file_bytes, copy_bytes: of the annotation file and of its prepared copy.
        latency: seconds of a round between two machines.
        bandwidth: bytes a second of a machine's network.
    """
    machines = max(processes // PER_MACHINE, 1)
    first, other, zero = start.values()
    # The first process of each machine reads the file, its others find file and copy in memory.
    read = machines * (file_bytes + copy_bytes)
    questions = first["questions"] * machines + other["questions"] * (processes - machines)
    rounds = math.log2(machines) if machines > 1 else 0
    part = 2 * (processes - 1) / processes  # of the gradients, which each process sends in a ring
    return {
        "processes": processes,
        "start, s": first["s"] + other["s"] + zero["s"],
        "CPU s of all": (
            first["CPU s"] * machines + other["CPU s"] * (processes - machines) + zero["CPU s"]
        ),
        "read, GB": read / GB,
        "questions": questions + zero["questions"],
        "vote, ms": 1000
        * (grow({n: x["vote"] for n, x in exchanges.items()}, processes) + 2 * rounds * latency),
        "gradients, ms": 1000 * 4 * checkpoint["parameters"] * part / bandwidth,
        "checkpoint, s": checkpoint["s"],
        "resume, GB": machines * checkpoint["bytes"] / GB,
    }


def run(args: argparse.Namespace) -> Report:
    """Measure and simulate.

    Raises:
        ValueError: when a number is out of range.
    """
    if min(args.images, args.boxes, args.file_latency, args.network_latency) < 0:
        raise ValueError("expected numbers of at least 0")
    if args.bandwidth <= 0:
        raise ValueError(f"--bandwidth is {args.bandwidth}, expected more than 0")
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    logging.getLogger("yolor_d2").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        start = measure_start(folder, args.images, args.boxes, args.file_latency / 1000)
        path, _ = write_data_set(folder, args.images, args.boxes, polygons=False)
        copies = [*(folder / "copies").glob("*")]  # none of a file that is read in a second
        checkpoint = measure_checkpoint(args.config_file, Path(temporary))
        exchanges = measure_exchanges(int(checkpoint["parameters"]))
        sizes = {
            "file_bytes": path.stat().st_size,
            "copy_bytes": sum(x.stat().st_size for x in copies),
        }
    rows = [
        simulate(
            processes,
            start,
            exchanges,
            checkpoint,
            **sizes,
            latency=args.network_latency / 1000,
            bandwidth=args.bandwidth * GB,
        )
        for processes in CLUSTERS
    ]
    settings = {
        "images": args.images,
        "boxes": args.boxes,
        "model": args.config_file,
        "a question to the file system, ms": args.file_latency,
        "a round between machines, ms": args.network_latency,
        "network of a machine, GB/s": args.bandwidth,
        **{
            f"start of {kind}": f"{x['s']:.2f} s, CPU {x['CPU s']:.2f} s, questions "
            f"{x['questions']}"
            for kind, x in start.items()
        },
        **{
            f"{count} processes here": f"met in {x['met']:.2f} s, vote {1000 * x['vote']:.2f} ms, "
            f"gradients {1000 * x['gradients']:.0f} ms"
            for count, x in exchanges.items()
        },
        "checkpoint": f"{checkpoint['bytes'] / GB:.2f} GB in {checkpoint['s']:.2f} s",
    }
    return Report("Simulated cluster", settings, rows, describe_machine())
