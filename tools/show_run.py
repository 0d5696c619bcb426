#!/usr/bin/env python
"""Draw the curves of a run, and its detections beside the ground truth. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("show_run"))
