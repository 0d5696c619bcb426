"""Numbers and names of a report for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

MEANINGS = {
    "AP": "IoU 0.50 to 0.95, all sizes",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects",
    "APl": "large objects, above 96² pixels",
    "AR1": "recall with 1 detection per image",
    "AR10": "recall with 10 detections per image",
    "AR100": "recall with 100 detections per image",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}
# The kinds of errors, as report.json has them, for people.
ERROR_NAMES = {
    "class": "wrong class",
    "position": "wrong position",
    "both": "both wrong",
}
ERROR_MEANINGS = {
    "class": "right place, wrong class",
    "position": "right class, box too far off (IoU 0.1 to 0.5)",
    "both": "wrong class and box too far off",
    "duplicate": "an object that a better detection has found",
    "background": "nothing there (IoU up to 0.1)",
    "missed": "no detection accounts for the object",
    "false positives": "every detection that is not correct",
    "false negatives": "every object that is not found",
}


def number(value: float | None, digits: int = 1) -> str:
    """A number for people, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\N{EN DASH}"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:,.{digits}f}"
    is_zero = float(text.replace(",", "")) == 0
    return text.lstrip("-") if is_zero else text.replace("-", "\N{MINUS SIGN}")


def error_name(kind: str) -> str:
    """A kind of error for people."""
    return ERROR_NAMES.get(kind, kind)


def verdict(values: Sequence[float | None], digits: int = 1, good: int = 1) -> str:
    """ "better" or "worse", as far as the difference can be seen; else nothing.

    Args:
        values: of the first and of the second run.
        digits: that are shown.
        good: 1 where more is better, -1 where less is, 0 where it is no merit.
    """
    change = difference(*values)
    if change is None or not math.isfinite(change):
        return ""
    change = round(change, digits) * good
    return "better" if change > 0 else "worse" if change < 0 else ""


def signed(value: float | None, digits: int = 1) -> str:
    """A difference for people."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def difference(first: float | None, second: float | None) -> float | None:
    """None where either is missing."""
    return None if first is None or second is None else second - first
