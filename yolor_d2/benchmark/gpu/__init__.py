"""Check and measure everything that needs a GPU, part by part."""

from __future__ import annotations

import argparse
import logging
import shlex
import time
from pathlib import Path

import torch

from ..report import Report
from . import golden, inference, nms, pipeline, processes, step, suite, training
from .common import CHECKOUT, Setting
from .record import Part, Record, describe_device, run_part

GOLDEN = CHECKOUT / "tests" / "golden"
# Seconds for all parts together: eight minutes, less those of the start.
LIMIT = 465.0
# In this order. The time limits, in seconds, leave some time to finish what a part has begun.
PARTS = {
    "golden": Part("Golden records", golden.measure, 30),
    "training": Part("Training in several types", training.measure, 95),
    "inference": Part("Network", inference.measure, 120),
    "step": Part("Training step", step.measure, 70),
    "suppression": Part("Decoding and NMS", nms.measure, 20),
    "pipeline": Part("From files to boxes and batches", pipeline.measure, 45),
    "processes": Part("Process group of one", processes.measure, 20),
    "tests": Part("Tests that need a GPU", suite.measure, 50),
}


def choose_device(dry: bool) -> torch.device:
    """The first GPU, or the CPU for a dry run.

    Raises:
        ValueError: when there is no GPU and it is no dry run.
    """
    if dry:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("torch sees no GPU: --dry-run tries the command on the CPU")
    return torch.device("cuda")


def command_line(args: argparse.Namespace) -> str:
    """The command that was given, for the table."""
    words = ["yolor-d2", "benchmark", "gpu", "--output", str(args.output)]
    words += ["--golden", str(args.golden)] if args.golden else []
    words += ["--parts", *args.parts] if args.parts else []
    words += ["--dry-run"] * args.dry_run
    return shlex.join(words)


def heading(args: argparse.Namespace, machine: dict) -> str:
    """What the document with the tables begins with."""
    described = ", ".join(f"{key} {value}" for key, value in machine.items() if value)
    dry = "Dry run: the numbers mean nothing.\n\n" if args.dry_run else ""
    date = time.strftime("%Y-%m-%d")
    return f"## On a GPU\n\n    {command_line(args)}\n\n{date}: {described}.\n\n{dry}"


def time_for(name: str, later: list[str], left: float) -> float:
    """Seconds for a part: its own, and what the parts before it have not used.

    Args:
        name: of the part.
        later: parts that are still to come, whose own seconds are kept for them.
        left: seconds that are left for all of these.
    """
    kept = sum(PARTS[x].seconds for x in later)
    return max(min(PARTS[name].seconds, left), left - kept)


def run_and_write(
    name: str, setting: Setting, machine: dict, table: Path, seconds: float
) -> Record:
    """Run a part; its JSON, and its table in the document and on the terminal.

    Args:
        name: of `PARTS`.
        setting: for the part.
        machine: see `describe_device`.
        table: the document.
        seconds: see `run_part`.
    """
    record = run_part(name, PARTS[name], setting, seconds)
    setting.earlier[name] = record.rows
    record.write_json(setting.output / f"{name}.json", machine)
    with table.open("a", encoding="utf-8") as file:
        file.write(record.markdown())
    print(record.markdown(), flush=True)
    return record


def run(args: argparse.Namespace) -> Report:
    """Run the selected parts, in their order.

    Raises:
        ValueError: when a part is unknown, or there is no GPU and it is no dry run.
    """
    begin = time.perf_counter()
    if args.opts:
        raise ValueError(f"gpu takes no KEY VALUE pairs, got {args.opts}")
    asked = args.parts or list(PARTS)
    unknown = [name for name in asked if name not in PARTS]
    if unknown:
        raise ValueError(f"--parts has {unknown}, expected some of {list(PARTS)}")
    device = choose_device(args.dry_run)
    args.output.mkdir(parents=True, exist_ok=True)
    setting = Setting(device, args.output, args.golden or GOLDEN, args.dry_run)
    machine = describe_device(device)
    table = args.output / "table.md"
    table.write_text(heading(args, machine), encoding="utf-8")
    records = []
    logging.disable(logging.WARNING)  # the log of trainings would hide the tables
    try:
        wanted = [name for name in PARTS if name in asked]
        for i, name in enumerate(wanted):
            left = LIMIT - (time.perf_counter() - begin)
            seconds = time_for(name, wanted[i + 1 :], left)
            records.append(run_and_write(name, setting, machine, table, seconds))
    finally:
        logging.disable(logging.NOTSET)
    settings = {"device": device.type, "dry run": args.dry_run, "tables": str(table)}
    rows = [record.summary() for record in records]
    failed = [record.part for record in records if record.error is not None]
    return Report("Parts", settings, rows, machine, failed)
