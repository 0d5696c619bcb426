"""The folder of a run: found by its configuration, kept from another run, emptied on request.

It needs neither torch nor Detectron2.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

CONFIG_NAME = "config.yaml"
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
    "model_*.pth.tmp",
    "last_checkpoint.tmp",
)
RUN_FOLDERS = ("inference",)
# What a report of ours has among its first characters.
REPORT_MARK = '"yolor_d2 report '
REPORT_HEAD = 200


def find_training(folder: Path) -> Path | None:
    """What shows that a training has written into a folder; None where nothing does.

    That is `last_checkpoint`, a checkpoint, or figures of iterations.
    """
    last, metrics = folder / "last_checkpoint", folder / "metrics.json"
    if last.is_file():
        return last
    found = sorted(path for path in folder.glob("model_*.pth") if CHECKPOINT.fullmatch(path.name))
    if found:
        return found[-1]
    return metrics if metrics.is_file() and metrics.stat().st_size > 0 else None


def run_of_config(config_file: Path) -> Path | None:
    """The folder of the run that wrote a configuration; None for a configuration of the user.

    A run's lies as `config.yaml` beside what else the run has written, if it is but its log.
    """
    folder = config_file.parent
    if config_file.name != CONFIG_NAME or not config_file.is_file():
        return None
    has_run = find_training(folder) is not None or (folder / "log.txt").is_file()
    return folder if has_run else None


def refuse_other_run(folder: Path) -> None:
    """Keep a new training out of the folder of another one.

    Raises:
        FileExistsError: naming what lies there, and what can be done.
    """
    found = find_training(folder)
    if found is not None:
        raise FileExistsError(
            f"OUTPUT_DIR {str(folder)!r} holds another run ({found.name}): --resume goes on with "
            "it, --overwrite deletes it, or give another OUTPUT_DIR"
        )


def require_outside(key: str, path: str, folder: Path) -> None:
    """Keep what a new run starts from when the run in its folder is about to be deleted.

    Raises:
        ValueError: when a checkpoint is one of the run in the folder.
    """
    real = Path(path).resolve()
    if path and real.parent == folder.resolve() and CHECKPOINT.fullmatch(real.name):
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
