#!/usr/bin/env python
"""What this installation consists of. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("env"))
