"""The report of an evaluation: collected from the files of a run, kept as report.json.

`write_reports` is what the end of a training, `yolor-d2 eval` and yolor-d2 report call.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..config import get_yolor_cfg, list_keys
from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..datasets.annotations import Annotations
from ..datasets.prepared_copies import hash_file
from ..environment import describe_machine
from ..evaluation.coco_files import RESULTS_NAME, Detections, read_json, read_results, read_truth
from ..evaluation.coco_metrics import (
    METRICS_NAME,
    COCOMetrics,
    evaluate_boxes,
    hash_content,
    read_kept_metrics,
)
from ..files.writing import atomic_write
from ..runs import read_metrics
from .analysis import analyse
from .shapes import add_shapes, kinds_in, read_shapes, take_rows, task_metrics

logger = logging.getLogger(__name__)

# What report.json says it is; the number changes with its form.
FORMAT = "yolor_d2 report 2"
# The units of the numbers in report.json, by key; also those of the page.
UNITS = {
    "figures": "percent",
    "tasks": "percent",
    **dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), "percent"),
    **dict.fromkeys(("precision", "recall", "f1", "precision_by_recall"), "percent"),
    "cost": "percentage points of AP50",
    **dict.fromkeys(("score", "threshold"), "0 to 1"),
    "box": "x, y, width, height in pixels",
    "milliseconds": "milliseconds per image",
}
REPORT_NAME = "report"
# Beside the detections: figures of all evaluators, speed, and what was evaluated.
RECORD_NAME = "evaluation.json"
# Names of figures whose curves are shown.
PRECISION = re.compile(r"(.*/)?(bbox/AP(50|75)?|(segm|keypoints)/AP)")
# Points of each curve of the training.
MOST_POINTS = 400


@dataclass(frozen=True)
class Source:
    """The files that a report is made of.

    Attributes:
        dataset: name of the data set.
        annotations: COCO annotation file.
        image_root: folder of the images; None draws no pictures.
        results: COCO result file.
        record: what `write_record` wrote; need not exist.
        metrics: metrics.json of the training; None, or a file that does not exist, for no curves.
        cfg: configuration; None for results of unknown origin.
    """

    dataset: str
    annotations: Path
    image_root: Path | None
    results: Path
    record: Path | None = None
    metrics: Path | None = None
    cfg: CfgNode | None = None


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
        content: "figures" by task, "speed" of `StageTimer.summary`, "weights".
    """
    path = folder / RECORD_NAME
    old = read_json(path) if path.is_file() else {}
    write_json(path, {**(old if isinstance(old, dict) else {}), **content})


def keep_for_report(cfg: CfgNode, dataset: str, metrics: dict, speed: dict | None) -> None:
    """Keep what an evaluation found beside its detections, which are the rest of a report.

    Args:
        cfg: of the run.
        dataset: name of the data set.
        figures: by task.
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
    except OSError as error:  # a full disk, say: the figures themselves are not lost
        logger.error("Figures and speed cannot be kept for the report: %s", error)


def source_of_run(cfg: CfgNode, dataset: str) -> Source:
    """The files of a run, after the evaluation of a data set.

    Raises:
        FileNotFoundError: when it has not been evaluated.
    """
    metadata = MetadataCatalog.get(dataset)
    annotations = metadata.get("json_file")
    folder = inference_folder(cfg, dataset)
    results = folder / RESULTS_NAME
    for path, what in ((annotations, "annotation file"), (results, "detections")):
        if path is None or not Path(path).is_file():
            raise FileNotFoundError(
                f"data set {dataset!r} has no {what}" + (f": no file {str(path)!r}" if path else "")
            )
    # An evaluation with a folder of its own lies apart from the training of its weights.
    metrics = [
        Path(cfg.OUTPUT_DIR) / "metrics.json",
        Path(cfg.MODEL.WEIGHTS).parent / "metrics.json",
    ]
    return Source(
        dataset=dataset,
        annotations=Path(annotations),
        image_root=Path(metadata.get("image_root") or "."),
        results=results,
        record=folder / RECORD_NAME,
        metrics=next((path for path in metrics if path.is_file()), None),
        cfg=cfg,
    )


def build_report(source: Source) -> dict:
    """Everything that a report shows but the pixels of its pictures; see docs/report.md.

    Raises:
        OSError: when a file cannot be read.
        ValueError: when one is not what it should be.
    """
    truth = read_truth(source.annotations)
    content = source.results.read_bytes()
    detections = read_results(source.results, truth, content)
    coco = metrics_of(source, truth, detections, hash_content(content))
    kinds = kinds_in(content)
    shapes = read_shapes(content) if kinds else []
    del content  # as large as all that was made of it
    record = {}
    if source.record is not None and source.record.is_file():
        parsed = read_json(source.record)
        record = parsed if isinstance(parsed, dict) else {}
    metrics = record.get("figures") or {}
    tasks = {name: x for name, x in metrics.items() if name != "bbox" and isinstance(x, dict)}
    for kind in kinds:
        if kind not in tasks:  # results of unknown origin
            metrics = task_metrics(kind, source.annotations, truth, detections, shapes)
            tasks |= {} if metrics is None else {kind: metrics}
    analysis = analyse(truth, detections, coco)
    pictures, lines = take_rows(analysis["pictures"]), []
    if kinds:
        lines = add_shapes(pictures, source.annotations, truth, shapes, kinds)
    return {
        "format": FORMAT,
        "units": UNITS,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dataset": {
            "name": source.dataset,
            "annotations": str(source.annotations),
            "image_root": None if source.image_root is None else str(source.image_root),
            "results": str(source.results),
        },
        "model": describe_model(source),
        "weights": record.get("weights"),
        **analysis,
        **({"skeleton": lines} if lines else {}),
        "tasks": tasks,
        "speed": record.get("speed"),
        "training": None if source.metrics is None else training_curves(source.metrics),
        "config": None if source.cfg is None else describe_config(source.cfg),
        "environment": describe_environment(),
    }


def metrics_of(
    source: Source, truth: Annotations, detections: Detections, results_hash: str
) -> COCOMetrics:
    """Those that the evaluation has kept beside the detections, if both files are still those that
    they are about; else they are computed."""
    kept = read_kept_metrics(
        source.results.with_name(METRICS_NAME),
        annotations=hash_file(source.annotations),
        results=results_hash,
    )
    return evaluate_boxes(truth, detections) if kept is None else kept


def describe_model(source: Source) -> dict[str, str | None]:
    """What to call the detector: "name" of its network, or of the file where only detections are
    known, and "run", the folder that it was evaluated in."""
    if source.cfg is None:
        return {"name": source.results.name, "run": None}
    model = source.cfg.MODEL
    ours = model.META_ARCHITECTURE.startswith("YOLOR")
    return {
        "name": model.YOLOR.VARIANT if ours else model.META_ARCHITECTURE,
        "run": Path(source.cfg.OUTPUT_DIR).resolve().name,
    }


def describe_environment() -> dict[str, str]:
    """Machine and versions, where the report was made."""
    machine = {key: str(value) for key, value in describe_machine().items() if value is not None}
    packages = ("torchvision", "numpy", "pycocotools", "faster-coco-eval", "matplotlib")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"yolor_d2": __version__, **machine, **versions}


def describe_config(cfg: CfgNode) -> dict:
    """The whole configuration as text, and what differs from the defaults."""
    default = get_yolor_cfg()
    known = dict.fromkeys(list_keys(default))

    def value_of(node: CfgNode, key: str) -> object:
        for part in key.split("."):
            node = node[part]
        return to_json(node)  # lists and tuples are the same here

    changed = {
        key: str(value_of(cfg, key))
        for key in list_keys(cfg)
        if key not in known or value_of(cfg, key) != value_of(default, key)
    }
    return {"changed": changed, "text": cfg.dump()}


def training_curves(path: Path) -> dict:
    """Losses, learning rates and AP over the iterations, from a metrics.json.

    Returns:
        "file"; "losses", "rates" and "precisions": by name, pairs of iteration and value.
    """
    by_iteration = {
        row["iteration"]: row
        for row in read_metrics(path)
        if isinstance(row, dict) and isinstance(row.get("iteration"), int)
    }
    rows = [by_iteration[i] for i in sorted(by_iteration)]

    def series(wanted: Sequence[str]) -> dict[str, list]:
        curves = {}
        for name in wanted:
            points = [
                (row["iteration"], row[name])
                for row in rows
                if isinstance(row.get(name), int | float) and math.isfinite(row[name])
            ]
            step = max(math.ceil(len(points) / MOST_POINTS), 1)
            # Counted from the end, so that the last one is among them.
            if points:
                curves[name] = points[::-step][::-1]
        return curves

    names = sorted({name for row in rows for name in row})
    return {
        "file": str(path),
        "losses": series(["total_loss", *(x for x in names if x.startswith("loss_"))]),
        "rates": series([x for x in names if x == "lr" or x.startswith("lr/")]),
        "precisions": series([x for x in names if PRECISION.fullmatch(x)]),
    }


def write_report(report: dict, path: Path) -> Path:
    """Write a report as JSON and, beside it, as a page.

    Returns:
        The page.
    """
    # Here, as it brings matplotlib.
    from .page import render_report

    page = path.with_suffix(".html")
    text = render_report(report)
    write_json(path, report)
    with atomic_write(page) as file:
        file.write(text.encode("utf-8", errors="replace"))
    return page


def write_reports(cfg: CfgNode, weights: str | None = None) -> list[Path]:
    """Report on the last evaluation of a run, for every data set of DATASETS.TEST.

    Args:
        cfg: of the run, whose OUTPUT_DIR has the detections and gets the reports.
        weights: what was evaluated, for people; None leaves what is known.

    Returns:
        The pages.

    Raises:
        OSError, ValueError: see `build_report`.
    """
    pages = []
    for dataset, path in report_paths(cfg).items():
        if weights is not None:
            write_record(inference_folder(cfg, dataset), weights=weights)
        report = build_report(source_of_run(cfg, dataset))
        pages.append(write_report(to_json(report), path))
        logger.info("Report: %s", pages[-1])
    return pages


def report_or_log(cfg: CfgNode, weights: str) -> None:
    """`write_reports` unless TEST.REPORT is off; whatever goes wrong is logged and ends nothing:
    the evaluation, or the training before it, is done and must not be lost to its report."""
    if not cfg.TEST.REPORT or not cfg.DATASETS.TEST:
        return
    try:
        write_reports(cfg, weights)
    except Exception as error:  # any: see above
        logger.error(
            "No report could be made of this evaluation, whose results stand: %s: %s. "
            "`yolor-d2 report %s --debug` tries again and shows where",
            *(type(error).__name__, error, cfg.OUTPUT_DIR),
        )


# ---- Reading


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


def read_thresholds(path: Path, class_names: Sequence[str]) -> list[float]:
    """The best score threshold of each class, for MODEL.YOLOR.CLASS_SCORE_THRESHOLDS.

    Classes of which the evaluation found no object take the threshold of all classes together,
    which the log says.

    Args:
        path: report.json.
        class_names: of the model, by which thresholds are found.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is no report, when its classes are not those of the model, or when it
            has no thresholds.
    """
    report = read_report(path)
    try:
        known = {x["name"]: x["threshold"] for x in report["classes"]}
        twice = len(known) < len(report["classes"])
        overall = report["threshold"]["threshold"]
        usable = all(x is None or 0 <= x <= 1 for x in (overall, *known.values()))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is a damaged report: {error!r}") from error
    if not usable:
        raise ValueError(f"{str(path)!r} is a damaged report: its thresholds are not in 0-1")
    if twice or len(set(class_names)) < len(class_names):
        raise ValueError(
            f"{str(path)!r}: thresholds are found by the names of classes, but several have the "
            "same name"
        )
    missing = [name for name in class_names if name not in known]
    if missing:
        raise ValueError(
            f"{str(path)!r} is about the classes {', '.join([*known][:10])}"
            f"{', ...' if len(known) > 10 else ''}; it has no {', '.join(missing[:10])}, which the "
            "model has"
        )
    if overall is None:
        raise ValueError(
            f"{str(path)!r} has no thresholds: no detection of that evaluation was correct"
        )
    unknown = [name for name in class_names if known[name] is None]
    if unknown:
        logger.warning(
            "%s: nothing of the classes %s was found; they take the threshold of all classes, %.3f",
            *(path, ", ".join(unknown), overall),
        )
    return [overall if known[name] is None else known[name] for name in class_names]
