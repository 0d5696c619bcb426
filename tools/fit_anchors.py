#!/usr/bin/env python
"""How well a configuration's anchors fit a data set, and anchors that fit it better. See --help."""

import sys

from yolor_d2.commands import fit_anchors
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(fit_anchors.main))
