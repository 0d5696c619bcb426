#!/usr/bin/env python
"""Make weights of other programs readable for Detectron2. See --help."""

import sys

from yolor_d2.commands import convert_weights
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(convert_weights.main))
