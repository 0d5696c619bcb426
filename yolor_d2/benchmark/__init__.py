"""Measurements of speed, one module for each command of yolor-d2 benchmark.

A module has `run(args)`, which returns a `Report`; `yolor_d2.arguments.benchmark` says what it
takes.
"""

from .report import Report, describe_machine

__all__ = ["Report", "describe_machine"]
