#!/usr/bin/env python
"""Detect objects in images, folders of images, or videos. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("predict"))
