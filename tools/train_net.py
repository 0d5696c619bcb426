#!/usr/bin/env python
"""Train, resume or evaluate a YOLOR model. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("train_net"))
