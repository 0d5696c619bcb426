"""Values of files that come from anywhere: whole numbers, numbers, and how messages show them."""

from __future__ import annotations

import math

# What an id or a size has to stay below, as numpy's and torch's whole numbers do.
LARGEST_NUMBER = 2**63
# Values are shown up to so many characters.
SHOWN = 80


def shorten(value: object) -> str:
    """A value of a file for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def is_whole(value: object) -> bool:
    """Whether a value of a file is a whole number of reasonable size."""
    return type(value) is int and -LARGEST_NUMBER <= value < LARGEST_NUMBER


def to_float(value: object) -> float | None:
    """A number of a file; infinite where it is too large, None for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except OverflowError:
        return math.inf
