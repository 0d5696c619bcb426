#!/usr/bin/env python
"""Find out what is wrong with a data set. See --help."""

import sys

from yolor_d2.commands import check_dataset
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(check_dataset.main))
