#!/usr/bin/env python
"""Train the rows of a table of the paper and compare them. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("run_ablation"))
