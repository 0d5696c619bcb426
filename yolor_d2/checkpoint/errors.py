"""The error of everything that reads weight files of others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class WeightsFileError(ValueError):
    """A refused file; the message names it, its content and what was expected."""


@contextmanager
def name_file(path: str | os.PathLike) -> Iterator[None]:
    """Put the name of the file before the message of a `WeightsFileError`."""
    try:
        yield
    except WeightsFileError as fault:
        raise WeightsFileError(f"{os.fspath(path)}: {fault}") from fault.__cause__


def shorten(text: str, limit: int = 80) -> str:
    """A string out of a foreign file, fit for a message."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
