#!/usr/bin/env python
"""How well a configuration's anchors fit a data set, and anchors that fit it better. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("fit_anchors"))
