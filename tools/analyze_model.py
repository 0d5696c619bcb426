#!/usr/bin/env python
"""Parameters and FLOPs of the network that a configuration describes. See --help."""

import sys

from yolor_d2.commands import analyze_model
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(analyze_model.main))
