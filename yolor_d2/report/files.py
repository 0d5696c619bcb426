"""The files of reports: where they lie, what an evaluation keeps for them, how they are read."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import torch

from ..d2.config import CfgNode
from ..evaluation.coco_files import read_json
from ..files.writing import atomic_write

logger = logging.getLogger(__name__)

# What report.json says it is; the number changes with its form.
FORMAT = "yolor_d2 report 2"
REPORT_NAME = "report"
# Beside the detections: metrics of all evaluators, speed, and what was evaluated.
RECORD_NAME = "evaluation.json"


def inference_folder(cfg: CfgNode, dataset: str) -> Path:
    """Where the evaluators of a data set write; each has its own where there are several."""
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    return folder / file_stem(dataset) if len(cfg.DATASETS.TEST) > 1 else folder


def file_stem(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "data"


def report_paths(cfg: CfgNode) -> dict[str, Path]:
    """report.json of each data set of DATASETS.TEST: of the first one under that very name."""
    names = list(cfg.DATASETS.TEST)
    stems = [REPORT_NAME, *(f"{REPORT_NAME}_{file_stem(name)}" for name in names[1:])]
    return {name: Path(cfg.OUTPUT_DIR) / f"{stem}.json" for name, stem in zip(names, stems)}


def to_json(value: object) -> object:
    """The same as plain data; NaN and infinities, which JSON has not, become None."""
    if isinstance(value, dict):
        return {str(key): to_json(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, data: object) -> None:
    """Write plain data, whole or not at all."""
    text = json.dumps(to_json(data), allow_nan=False, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def write_record(folder: Path, **content: object) -> None:
    """Add to what is known about the evaluation whose detections are in a folder.

    Args:
        folder: see `inference_folder`.
        content: `figures` (metrics) by task, "speed" of `StageTimer.summary`, "weights".
    """
    path = folder / RECORD_NAME
    old = read_json(path) if path.is_file() else {}
    write_json(path, {**(old if isinstance(old, dict) else {}), **content})


def keep_for_report(cfg: CfgNode, dataset: str, metrics: dict, speed: dict | None) -> None:
    """Keep what an evaluation found beside its detections, which are the rest of a report.

    Args:
        cfg: of the run.
        dataset: name of the data set.
        metrics: by task.
        speed: see `StageTimer.summary`.
    """
    if speed is not None:
        threads, workers = torch.get_num_threads(), cfg.DATALOADER.NUM_WORKERS
        gpu = cfg.MODEL.DEVICE.startswith("cuda")
        on_cpu = f"the CPU, {threads} thread{'s' if threads > 1 else ''}"
        device = torch.cuda.get_device_name() if gpu else on_cpu
        speed = {**speed, "device": f"{device}, {cfg.MODEL.INFERENCE.DTYPE}", "workers": workers}
    try:
        write_record(inference_folder(cfg, dataset), figures=metrics, speed=speed, weights=None)
    except OSError as error:  # a full disk, say: the metrics themselves are not lost
        logger.error("Metrics and speed cannot be kept for the report: %s", error)


def read_report(path: Path) -> dict:
    """A report.json.

    Raises:
        OSError: when it cannot be read.
        ValueError: naming the file, when it is no report, or of another version.
    """
    report = read_json(path)
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        has = report.get("format") if isinstance(report, dict) else type(report).__name__
        raise ValueError(
            f"{str(path)!r} is no report of this version: its format is {has!r}, expected "
            f"{FORMAT!r}; `yolor-d2 report RUN` makes that of a run again"
        )
    return report
