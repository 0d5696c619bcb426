#!/usr/bin/env python
"""Draw the curves of a run, and its detections beside the ground truth. See --help."""

import sys

from yolor_d2.commands import show_run
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(show_run.main))
