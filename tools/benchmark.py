#!/usr/bin/env python
"""Measure speed on this machine. See --help."""

import sys

from yolor_d2.commands import benchmark
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(benchmark.main))
