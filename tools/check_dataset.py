#!/usr/bin/env python
"""Find out what is wrong with a data set. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("check_dataset"))
