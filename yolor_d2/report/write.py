"""Reports written as report.json and, beside it, as a page.

`write_reports` is what the end of a training, `yolor-d2 eval` and `yolor-d2 report` call.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..d2.config import CfgNode
from ..files.writing import atomic_write
from .collect import build_report, source_of_run
from .files import inference_folder, report_paths, to_json, write_json, write_record

logger = logging.getLogger(__name__)


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
