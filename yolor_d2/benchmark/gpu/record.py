"""What becomes of a part: how it runs, and its result as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch.utils import collect_env

from ...environment import describe_machine
from .common import Findings, Setting, free_memory

GIB = 1024**3


class Part(NamedTuple):
    """A part of the command.

    Attributes:
        title: for people.
        measure: adds to the findings; may raise anything.
        seconds: its time limit.
    """

    title: str
    measure: Callable[[Setting, Findings], None]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of a part.

    Attributes:
        part: its name.
        title: for people.
        dry_run: whether the numbers mean nothing.
        share: seconds that it had.
        seconds: seconds that it took.
        error: why it failed; None if it did not.
        trace: where it failed.
        rows: see `Findings`, as the rest.
        notes: sentences.
        left_out: what was not measured.
    """

    part: str
    title: str
    dry_run: bool
    budget: float
    seconds: float
    error: str | None
    trace: str | None
    rows: list[dict]
    notes: list[str]
    left_out: list[str]

    @property
    def outcome(self) -> str:
        """In a word or two."""
        if self.error is not None:
            return "failed"
        return "measured" if self.rows else "left out"

    def summary(self) -> dict:
        """A row about the part as a whole."""
        return {
            "part": self.part,
            "outcome": self.outcome,
            "rows": len(self.rows),
            "left out": len(self.left_out),
            "s": self.seconds,
            "share, s": self.budget,
        }

    def markdown(self) -> str:
        """A section with the table."""
        lines = [f"### {self.title}", ""]
        if self.dry_run:
            lines += ["Dry run: the numbers mean nothing.", ""]
        if self.error is not None:
            lines += ["**Failed:**", "", *indented(self.error), ""]
        if self.rows:
            shown = [{key: shorten(value) for key, value in row.items()} for row in self.rows]
            table = tabulate(
                shown, headers="keys", tablefmt="github", missingval="-", disable_numparse=True
            )
            lines += [table, ""]
        remarks = [*self.notes, *(f"Left out: {x.rstrip('.')}." for x in self.left_out)]
        if remarks:
            lines += [*(f"- {x}" for x in remarks), ""]
        return "\n".join(lines) + "\n"

    def write_json(self, path: Path, machine: dict) -> None:
        """For programs."""
        content = {**dataclasses.asdict(self), "outcome": self.outcome, "machine": machine}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def indented(text: str) -> list[str]:
    """Lines that Markdown shows unchanged."""
    return [f"    {line}" for line in text.splitlines()]


def shorten(value: object) -> object:
    """A number as tables show it: two decimals, or two digits where these would be zeros."""
    if not isinstance(value, float):
        return value
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def run_part(name: str, part: Part, setting: Setting, seconds: float) -> Record:
    """Run a part, whatever comes of it.

    Args:
        name: of the part.
        part: what to run.
        setting: for the part.
        seconds: its time limit; without any it is left out.
    """
    findings = Findings(seconds)
    error = trace = None
    if seconds <= 0:
        findings.leave_out("everything", "the parts before it have used up the time")
    else:
        try:
            free_memory()  # of the part before; fails after an error that the GPU has not survived
            part.measure(setting, findings)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
            trace = traceback.format_exc()
    return Record(
        part=name,
        title=part.title,
        dry_run=setting.dry,
        budget=findings.seconds,
        seconds=findings.spent,
        error=error,
        trace=trace,
        rows=findings.rows,
        notes=findings.notes,
        left_out=findings.left_out,
    )


def describe_device(device: torch.device) -> dict:
    """See `describe_machine`, and what belongs to the GPU."""
    machine = describe_machine()
    if device.type != "cuda":
        return machine
    memory = torch.cuda.get_device_properties(device).total_memory / GIB
    return {
        **machine,
        "gpu memory, GiB": round(memory, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": collect_env.get_nvidia_driver_version(collect_env.run),
    }
