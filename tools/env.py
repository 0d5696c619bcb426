#!/usr/bin/env python
"""What this installation consists of. See --help."""

import sys

from yolor_d2.commands import env
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(env.main))
