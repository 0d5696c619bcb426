"""Train the rows of a table of the paper with the same seeds and budget, and compare them."""

from __future__ import annotations

import argparse
import functools
import json
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..ablation import SCALES, Measured, difference, format_costs, format_table, get_table
from ..config import apply_overrides, read_config
from ..d2.config import CfgNode
from ..data.options import use_data
from ..data.training_data import TrainingData
from ..datasets.catalog import register_datasets
from ..files.writing import atomic_write
from ..modeling.backbone import task_inputs, variant_from_config
from ..networks import build_network
from ..networks.complexity import Complexity, measure_complexity
from ..runs import read_metrics
from ..tasks import TASKS, build_tasks, settle_tasks
from ..toy import write_toy_dataset
from ..workers import ask_for_signal

POLL_SECONDS = 0.5
TOY_IDENTITIES = 24
# Generated data of the tables that need other data than the rest: folder and what is generated.
TOY_DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "3": ("data_of_individuals", {"identities": TOY_IDENTITIES, "objects": (1, 5)}),
    "T": (
        "data_of_tasks",
        {"identities": TOY_IDENTITIES, "keypoints": True, "objects": (1, 5)},
    ),
}
LOG_LINES = 15


def measure(cfg: CfgNode, *, detector_only: bool = False) -> Complexity:
    """Parameters of what a configuration trains, and FLOPs of what is left of it at inference, at
    its own size and classes."""
    channels, size = len(cfg.MODEL.PIXEL_MEAN), cfg.INPUT.MAX_SIZE_TEST
    with torch.device("meta"):
        network = build_network(
            variant_from_config(cfg), cfg.MODEL.YOLOR.NUM_CLASSES, in_channels=channels
        ).eval()
        side = -(-size // network.size_divisibility) * network.size_divisibility
        image = torch.empty(1, channels, side, side)
        costs = [measure_complexity(network, image)["total"]]
        if detector_only:
            return costs[0]
        tasks = build_tasks(cfg, task_inputs(cfg, network.neck.channels, network.strides))
        if tasks:
            features = network.neck(network.backbone(image))
            given = features, network.head(features), torch.empty(1, 4)
            costs.append(measure_complexity(tasks, *given)["total"])
    return Complexity(*(sum(parts) for parts in zip(*map(astuple, costs))))


def prepare(folder: Path, cfg: CfgNode) -> None:
    """Write the configuration of a run, or find that the run there is the same.

    Raises:
        ValueError: when the folder holds a run of another configuration.
    """
    path = folder / "ablation.yaml"
    if path.is_file():
        changed = difference(read_config(path), cfg)
        if changed:
            raise ValueError(
                f"{str(folder)!r} holds a run with another {', '.join(changed)}: remove it, or "
                "choose another --output"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(cfg.dump().encode())


def last_iteration(folder: Path) -> int:
    path = folder / "metrics.json"
    rows = read_metrics(path) if path.is_file() else []
    return max((row.get("iteration", 0) for row in rows), default=0)


def train(folder: Path, num_gpus: int, bar: tqdm) -> None:
    """Train, or go on, in a process of its own; its output goes to `printed.txt` in the folder.

    Raises:
        RuntimeError: when it fails, with the end of what it printed.
    """
    command = [sys.executable, "-m", "yolor_d2", "train", "--resume", "--num-gpus", str(num_gpus)]
    command += ["--config-file", str(folder / "ablation.yaml")]
    start, printed = bar.n, folder / "printed.txt"
    with open(printed, "ab") as output:
        # It saves and ends too when this process is killed.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=functools.partial(ask_for_signal, signal.SIGTERM),
        )
        try:
            while process.poll() is None:
                bar.update(start + last_iteration(folder) - bar.n)
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()  # it saves a checkpoint and ends
                process.wait()
    if process.returncode != 0:
        tail = printed.read_text(errors="replace").splitlines()[-LOG_LINES:]
        raise RuntimeError(f"the run in {str(folder)!r} failed:\n" + "\n".join(tail))


def final_results(folder: Path) -> dict[str, float]:
    """Metrics of the last evaluation of a finished run.

    Raises:
        ValueError: when it has none.
    """
    rows = [row for row in read_metrics(folder / "metrics.json") if "bbox/AP" in row]
    if not rows:
        raise ValueError(f"{str(folder / 'metrics.json')!r} has no evaluation (bbox/AP)")
    last = max(rows, key=lambda row: row["iteration"])
    kinds = {"bbox", *(task.metrics for task in TASKS.values())}
    return {key: value for key, value in last.items() if key.partition("/")[0] in kinds}


def is_summary(name: str) -> bool:
    """Whether a metric such as "segm/AP50" is of all objects: no single class, no range of sizes
    and no stricter overlap."""
    metric = name.partition("/")[2]
    return "-" not in metric and metric not in ("AP75", "APs", "APm", "APl")


def run(folder: Path, cfg: CfgNode, num_gpus: int, bar: tqdm) -> dict[str, float]:
    """Results of one row and seed, trained now or earlier."""
    prepare(folder, cfg)
    results = folder / "results.json"
    if not results.is_file():
        bar.set_description(f"{folder.parent.name}, {folder.name}")
        start = bar.n
        train(folder, num_gpus, bar)
        final = final_results(folder)
        with atomic_write(results) as file:
            file.write(json.dumps(final, indent=1).encode())
        bar.update(start + cfg.SOLVER.MAX_ITER - bar.n)
    else:
        bar.update(cfg.SOLVER.MAX_ITER)
    return json.loads(results.read_text())


def main(args: argparse.Namespace) -> None:
    table = get_table(args.table)
    scale = SCALES[args.scale]
    root = args.output / args.scale
    files = (args.train, args.val)
    if args.scale == "toy":
        # Further tasks tell individuals apart, and images by the classes that they show.
        name, options = "data", {}
        if table.name in TOY_DATA:
            name, options = TOY_DATA[table.name]
        toy = write_toy_dataset(root / name, **options)
        files = (
            (str(toy.train_json), str(toy.train_images)),
            (str(toy.val_json), str(toy.val_images)),
        )
    configs = []
    for row in table.rows:
        cfg = scale.configure(row)
        if files[0] is not None:
            use_data(cfg, *files)
            register_datasets(cfg)
            settle_tasks(cfg, TrainingData(cfg))
        apply_overrides(cfg, args.opts)
        configs.append(cfg)
    measured = [Measured(measure(cfg)) for cfg in configs]
    published = [measure(SCALES["coco"].configure(row), detector_only=True) for row in table.rows]
    total = sum(cfg.SOLVER.MAX_ITER for cfg in configs) * args.seeds
    with tqdm(total=total, unit="iteration") as bar:
        for seed in range(args.seeds):  # whole tables first, then more seeds
            for row, cfg, measured_row in zip(table.rows, configs, measured):
                folder = root / Path(row.config).stem / f"seed{seed}"
                cfg.SEED, cfg.OUTPUT_DIR = seed, str(folder)
                results = run(folder, cfg, args.num_gpus, bar)
                measured_row.ap[seed] = results.pop("bbox/AP")
                for name, value in results.items():
                    if not name.startswith("bbox/") and is_summary(name):
                        measured_row.other.setdefault(name, {})[seed] = value
    text = f"{format_table(table, measured, args.scale)}\n\n{format_costs(table, published)}"
    path = root / f"table_{table.name}.txt"
    with atomic_write(path) as file:
        file.write((text + "\n").encode())
    print(text)
    print(f"written to {path}")
