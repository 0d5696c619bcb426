#!/usr/bin/env python
"""Draw training samples as the network sees them, with their boxes. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("visualize_data"))
