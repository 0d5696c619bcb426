#!/usr/bin/env python
"""Draw the implicit knowledge that a model has learned. See --help."""

import sys

from yolor_d2.commands import plot_implicit
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(plot_implicit.main))
