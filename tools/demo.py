#!/usr/bin/env python
"""Detect objects in images, folders of images, or videos. See --help."""

import sys

from yolor_d2.commands import demo
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(demo.main))
