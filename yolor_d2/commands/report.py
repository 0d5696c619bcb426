"""Report on an evaluation, or compare two, on one page."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from jinja2 import UndefinedError

from ..config import load_run_config
from ..datasets.catalog import register_datasets
from ..files.writing import atomic_write, require_writable
from ..inputs import require_all
from ..report.collect import Source, build_report
from ..report.compare import align_reports
from ..report.files import REPORT_NAME, read_report, to_json
from ..report.write import write_report, write_reports

logger = logging.getLogger(__name__)

# What a report that lacks something makes the page's code raise.
DAMAGED = (KeyError, TypeError, AttributeError, IndexError, UndefinedError)


def report_on_run(folder: Path) -> list[Path]:
    """Pages of the data sets that a run was evaluated on."""
    cfg = load_run_config(folder)
    if not cfg.DATASETS.TEST:
        raise ValueError(
            f"{str(folder / 'config.yaml')!r}: DATASETS.TEST is empty, so nothing was evaluated"
        )
    register_datasets(cfg)
    return write_reports(cfg)


def read_run(path: Path) -> dict:
    """The report of a run, which is made if it has none."""
    if path.is_file():
        return read_report(path)
    file = path / f"{REPORT_NAME}.json"
    if not file.is_file():
        report_on_run(path)
    return read_report(file)


def name_runs(runs: Sequence[Path]) -> list[str]:
    """Short names of two runs, which differ."""
    folders = [path.resolve().parent if path.is_file() else path.resolve() for path in runs]
    names = [folder.name for folder in folders]
    if names[0] == names[1]:
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return names if names[0] != names[1] else [str(path) for path in runs]


def compare(runs: Sequence[Path], names: Sequence[str], output: Path) -> Path:
    """Write the page that compares two runs."""
    # Here, as it brings matplotlib.
    from ..report.comparison_page import render_comparison

    require_writable(output)
    reports = [read_run(path) for path in runs]
    try:
        aligned, notes = align_reports(reports, names)
        text = render_comparison(aligned, names, notes)
    except DAMAGED as error:
        raise ValueError(
            f"one of {', '.join(map(str, runs))} is a damaged report: {error!r}"
        ) from error
    for note in notes:
        logger.warning("%s", note)
    with atomic_write(output) as file:
        file.write(text.encode("utf-8", errors="replace"))
    return output


def main(args: argparse.Namespace) -> None:
    if args.results is not None:
        annotations, images = args.annotations
        require_all(annotations, images, args.results)
        source = Source(
            dataset=annotations.stem,
            annotations=annotations,
            image_root=images,
            results=args.results,
        )
        args.output.mkdir(parents=True, exist_ok=True)
        report = to_json(build_report(source))
        print(write_report(report, args.output / f"{REPORT_NAME}.json"))
    elif len(args.runs) == 1:
        for page in report_on_run(args.runs[0]):
            print(page)
    else:
        names = args.names or name_runs(args.runs)
        print(compare(args.runs, names, args.output or args.runs[1].with_name("comparison.html")))
