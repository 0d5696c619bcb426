#!/usr/bin/env python
"""Report on an evaluation, or compare two. See --help."""

import sys

from yolor_d2.commands import report
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(report.main))
