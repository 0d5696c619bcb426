"""What a benchmark found, as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate


@dataclass(frozen=True)
class Report:
    """Result of a benchmark.

    Attributes:
        title: what was measured.
        settings: what the numbers depend on, by name.
        rows: one dict of numbers for each measurement; all have the same keys, with units.
        machine: see `describe_machine`.
        failed: what of it could not be measured.
    """

    title: str
    settings: dict
    rows: list[dict]
    machine: dict
    failed: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items() if value)
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        table = tabulate(self.rows, headers="keys", floatfmt=".2f", missingval="-")
        return f"{self.title}\n{settings}\n{machine}\n\n{table}"

    def write_json(self, path: Path) -> None:
        """For programs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
