"""The folder of a run: found by its configuration, kept from another run, emptied on request.

It needs neither torch nor Detectron2.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

CONFIG_NAME = "config.yaml"
# The configuration of the network that teaches a run, and its weights where it is trained along.
TEACHER_CONFIG_NAME = "teacher.yaml"
TEACHER_WEIGHTS = "teacher_final.pth"
# Weights of a run to work with, the best first; else the last checkpoint, which this file names.
BEST_WEIGHTS = ("model_best.pth", "model_final.pth")
LAST_CHECKPOINT = "last_checkpoint"
# What a training leaves beside its configuration.
TRACES = (*BEST_WEIGHTS, LAST_CHECKPOINT, "metrics.json", "log.txt")
# Checkpoints and weights that a training writes.
CHECKPOINT = re.compile(r"model_(\d+|final|best)\.pth")
# Files and folders that training, evaluation and report write into OUTPUT_DIR, besides checkpoints.
# Copies of annotations and images stay, as they are made of data, and config.yaml, which the next
# run reads or replaces.
RUN_FILES = (
    "last_checkpoint",
    "metrics.json",
    "log.txt",
    "log.txt.rank*",
    "events.out.tfevents.*",
    "loggers.json",
    "report.html",
    "report.json",
    TEACHER_CONFIG_NAME,
    TEACHER_WEIGHTS,
    "model_*.pth.tmp",
    f"{TEACHER_WEIGHTS}.tmp",
    "last_checkpoint.tmp",
)
RUN_FOLDERS = ("inference",)
# What a report of ours has among its first characters.
REPORT_MARK = '"yolor_d2 report '
REPORT_HEAD = 200


@dataclass(frozen=True)
class Run:
    """What the folder of a run stands for.

    Attributes:
        folder: OUTPUT_DIR of the run.
        config: its configuration.
        weights: its best weights, or those that were named; None before there are any.
    """

    folder: Path
    config: Path
    weights: Path | None


def find_run(path: str | Path) -> Run | None:
    """The run that a path stands for: its folder, its config.yaml, or one of its checkpoints.

    A config.yaml without anything else of a run beside it is somebody's own; None then.
    """
    path = Path(path).expanduser()
    if path.is_dir() and (path / CONFIG_NAME).is_file():
        return Run(path, path / CONFIG_NAME, best_weights(path))
    folder = path.parent
    if path.name == CONFIG_NAME and path.is_file():
        if any((folder / name).exists() for name in TRACES):
            return Run(folder, path, best_weights(folder))
    elif path.suffix == ".pth" and path.is_file() and (folder / CONFIG_NAME).is_file():
        return Run(folder, folder / CONFIG_NAME, path)
    return None


def best_weights(folder: Path) -> Path | None:
    """The best weights in the folder of a run, else its last ones; None if it has none."""
    names = list(BEST_WEIGHTS)
    if (folder / LAST_CHECKPOINT).is_file():
        names.append((folder / LAST_CHECKPOINT).read_text(encoding="utf-8", errors="replace"))
    for name in names:
        path = folder / Path(name.strip()).name
        if path.suffix == ".pth" and path.is_file():
            return path
    return None


def run_folder(path: str | Path) -> Path:
    """The folder of a run that is named by it, by its config.yaml or by a checkpoint."""
    run = find_run(path)
    return Path(path) if run is None else run.folder


def require_run(folder: Path) -> Path:
    """The configuration in the folder of a run.

    Raises:
        FileNotFoundError: when the folder is not that of a run.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} is no run: it has no {CONFIG_NAME}")
    return path


def find_training(folder: Path) -> Path | None:
    """What shows that a training has written into a folder; None where nothing does.

    That is `last_checkpoint`, a checkpoint, or metrics of iterations.
    """
    last, metrics = folder / "last_checkpoint", folder / "metrics.json"
    if last.is_file():
        return last
    checkpoints = sorted(
        path for path in folder.glob("model_*.pth") if CHECKPOINT.fullmatch(path.name)
    )
    if checkpoints:
        return checkpoints[-1]
    return metrics if metrics.is_file() and metrics.stat().st_size > 0 else None


def run_of_config(config_file: Path) -> Path | None:
    """The folder of the run that wrote a configuration; None for a configuration of the user."""
    run = find_run(config_file) if config_file.name == CONFIG_NAME else None
    return None if run is None else run.folder


def refuse_other_run(folder: Path) -> None:
    """Keep a new training out of the folder of another one.

    Raises:
        FileExistsError: naming what lies there, and what can be done.
    """
    training = find_training(folder)
    if training is not None:
        raise FileExistsError(
            f"OUTPUT_DIR {str(folder)!r} holds another run ({training.name}): --resume continues "
            "it, --overwrite deletes it, or give another OUTPUT_DIR"
        )


def require_outside(key: str, path: str, folder: Path) -> None:
    """Keep what a new run starts from when the run in its folder is about to be deleted.

    Raises:
        ValueError: when the file is one of the run in the folder.
    """
    real = Path(path).resolve()
    of_run = CHECKPOINT.fullmatch(real.name) or real.name in (TEACHER_CONFIG_NAME, TEACHER_WEIGHTS)
    if path and real.parent == folder.resolve() and of_run:
        raise ValueError(
            f"--overwrite would delete {key} {path!r}: copy it to another folder, or give another "
            "OUTPUT_DIR"
        )


def remove_run(folder: Path) -> list[str]:
    """Delete what a run has written into a folder, and nothing else.

    Returns:
        Names of what was deleted.
    """
    paths = {path for pattern in RUN_FILES for path in folder.glob(pattern) if path.is_file()}
    paths |= {path for path in folder.glob("model_*.pth") if CHECKPOINT.fullmatch(path.name)}
    for report in folder.glob("report_*.json"):  # of further data sets; others may have such names
        with open(report, encoding="utf-8", errors="replace") as file:
            if REPORT_MARK in file.read(REPORT_HEAD):
                paths |= {p for p in (report, report.with_suffix(".html")) if p.is_file()}
    folders = [folder / name for name in RUN_FOLDERS if (folder / name).is_dir()]
    # What says that there is a run goes last, so that nothing is left unnoticed.
    for path in sorted(paths, key=lambda path: path.name == "last_checkpoint"):
        path.unlink()
    for path in folders:
        shutil.rmtree(path)
    return sorted(path.name for path in [*paths, *folders])


def read_metrics(path: Path) -> list[dict]:
    """Lines of a `metrics.json`; a line that was cut by an interruption is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
