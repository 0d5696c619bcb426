"""How far a command has come, in a small file beside what it writes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.writing import atomic_write
from .sources import Source

# Of the file's content; another one cannot be gone on with.
FORMAT = 1
# Arguments that change nothing of what is written.
WITHOUT_EFFECT = {"resume", "overwrite"}


def describe_arguments(
    arguments: Mapping[str, Any], sources: Sequence[Source], config: str, weights: str
) -> dict[str, Any]:
    """All that the outputs depend on, as plain data.

    Args:
        arguments: of the command line by name.
        sources: what it works on.
        config: the whole configuration as text.
        weights: file of the model.
    """
    given = {
        f"--{name.replace('_', '-')}": json.loads(json.dumps(value, default=str))
        for name, value in arguments.items()
        if name not in WITHOUT_EFFECT and name != "opts"
    }
    return {
        **given,
        "the configuration": digest([config]),
        "the file of weights": digest([version(weights)]),
        "the number of inputs": len(sources),
        "the list of inputs": digest([identify(source) for source in sources]),
    }


def identify(source: Source) -> str:
    """What tells an input from another; images are too many to ask each for its time."""
    if source.kind == "image":
        return os.path.abspath(source.name)
    return version(source.name) if os.path.isfile(source.name) else source.shown


def version(path: str) -> str:
    """Name, size and time of change of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


class State:
    """The file that `--resume` reads.

    Attributes:
        path: of the file.
        content: "finished"; "arguments", see `describe_arguments`; "position", where the command
            goes on; "outputs", the mark of each text file; "failures", the inputs that could
            not be read.
    """

    def __init__(self, path: Path, arguments: dict[str, Any]):
        self.path = path
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "finished": False,
            "arguments": arguments,
            "position": None,
            "outputs": {},
            "failures": 0,
        }

    def save(self, **changes: Any) -> None:
        self.content.update(changes)
        with atomic_write(self.path) as file:
            file.write(json.dumps(self.content).encode())

    def load(self) -> dict[str, Any] | None:
        """What an earlier command left there; None where there is nothing."""
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{str(self.path)!r} is damaged; --overwrite starts again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{str(self.path)!r} is of another version; --overwrite starts again")
        return content

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """How this command differs from an earlier one; None if it does not."""
        was, now = earlier["arguments"], self.content["arguments"]
        for key in [*now, *(set(was) - set(now))]:
            if was.get(key) != now.get(key):
                if key.startswith("--") or "number" in key:
                    return f"{key} is {show(now.get(key))}, was {show(was.get(key))}"
                return f"{key} has changed"
        return None

    def begin(self, outputs: Sequence[Path], *, resume: bool, overwrite: bool) -> bool:
        """Decide whether the command resumes the existing output.

        Args:
            outputs: files and folders that it writes.
            resume: it is to go on.
            overwrite: it is to start anew, whatever is there.

        Returns:
            True when everything has been done already.

        Raises:
            ValueError: when the output is of another command line, or not finished.
            FileExistsError: when it cannot be resumed.
        """
        if overwrite:
            return False
        earlier = self.load()
        if earlier is None:
            there = [path for path in outputs if path.is_file()]
            if resume and there:
                raise FileExistsError(
                    f"--resume: {str(there[0])!r} is there, but not {str(self.path)!r}, which says "
                    "how far it is; --overwrite starts again"
                )
            return False
        differs = self.difference(earlier)
        written = ", ".join(repr(str(path)) for path in outputs)
        if differs and (resume or not earlier["finished"] or any(p.is_file() for p in outputs)):
            raise ValueError(
                f"{written}: written by another command line: {differs}; --overwrite starts again"
            )
        if not resume and not earlier["finished"]:
            raise ValueError(
                f"{written}: not finished; --resume continues, --overwrite starts again"
            )
        if resume:
            self.content = earlier
        return bool(resume and earlier["finished"])


def show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else repr(value)


class StopSignals:
    """While it is entered, SIGINT and SIGTERM are noted; a second one has its usual effect."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.handlers = {number: signal.signal(number, self.receive) for number in self.NUMBERS}
        return self

    def receive(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number)
        self.restore()

    def restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def __exit__(self, *_: object) -> None:
        self.restore()
