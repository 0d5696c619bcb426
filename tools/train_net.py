#!/usr/bin/env python
"""Train, resume or evaluate a YOLOR model. See --help."""

import sys

from yolor_d2.commands import train_net
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(train_net.main))
