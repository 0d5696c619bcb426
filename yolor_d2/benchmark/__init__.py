"""Measurements of speed, one module for each command of tools/benchmark.py.

A module has `add_arguments(parser)` and `run(args)`, which returns a `Report`; its docstring is the
help of the command.
"""

from .report import Report, describe_machine

__all__ = ["Report", "describe_machine"]
