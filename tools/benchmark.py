#!/usr/bin/env python
"""Measure speed on this machine. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("benchmark"))
