"""Words that messages share: numbers of things, and the known word nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2 images".

    Args:
        number: how many.
        noun: of one.
        plural: of others; "" is the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Known words like `word`, the most alike first, whatever their case; [] if none is like it."""
    by_form: dict[str, str] = {}
    for name in known:
        by_form.setdefault(name.lower(), name)
    return [by_form[x] for x in difflib.get_close_matches(word.lower(), by_form, n=count)]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """What goes behind the name of an unknown word: "; did you mean 'x'?", or "; " and a text for
    where nothing is like it."""
    near = nearest(word, known)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}" if otherwise else ""
