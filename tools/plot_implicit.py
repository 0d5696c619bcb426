#!/usr/bin/env python
"""Draw the implicit knowledge that a model has learned. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("plot_implicit"))
