"""Score thresholds of the classes, as a report found them best."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from .files import read_report

logger = logging.getLogger(__name__)


def read_thresholds(path: Path, class_names: Sequence[str]) -> list[float]:
    """The best score threshold of each class, for MODEL.YOLOR.CLASS_SCORE_THRESHOLDS.

    Classes of which the evaluation found no object take the threshold of all classes together,
    which is logged.

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
