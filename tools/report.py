#!/usr/bin/env python
"""Report on an evaluation, or compare two. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("report"))
