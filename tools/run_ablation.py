#!/usr/bin/env python
"""Train the rows of a table of the paper and compare them. See --help."""

import sys

from yolor_d2.commands import run_ablation
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(run_ablation.main))
