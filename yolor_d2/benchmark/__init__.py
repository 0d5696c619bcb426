"""Measurements of speed, one module for each command of yolor-d2 benchmark.

A module has `run(args)`, which returns a `Report`; `yolor_d2.arguments.benchmark` says what it
takes.
"""

from ..environment import describe_machine
from .report import Report

__all__ = ["Report", "describe_machine"]
