#!/usr/bin/env python
"""Split a data set into images to train on and images to evaluate with. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("split"))
