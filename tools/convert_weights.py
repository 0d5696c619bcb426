#!/usr/bin/env python
"""Make weights of other programs readable for Detectron2. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("convert_weights"))
