#!/usr/bin/env python
"""Parameters and FLOPs of the network that a configuration describes. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("analyze_model"))
