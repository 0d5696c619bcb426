"""Words that messages share."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2 images".

    Args:
        number: how many.
        noun: of one.
        plural: of others; "" is the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
