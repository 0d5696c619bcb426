"""The content of a report, collected from the files of a run.

`build_report` makes it; `files` says where it and its sources lie, `write` writes it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from ..runs import read_metrics
from .analysis import analyse
from .files import FORMAT, RECORD_NAME, inference_folder, to_json
from .shapes import add_shapes, kinds_in, read_shapes, take_rows, task_metrics

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
# Names of metrics whose curves are shown.
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
