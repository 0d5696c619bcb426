#!/usr/bin/env python
"""Draw training samples as the network sees them, with their boxes. See --help."""

import sys

from yolor_d2.commands import visualize_data
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(visualize_data.main))
