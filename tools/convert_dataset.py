#!/usr/bin/env python
"""Write YOLO or Pascal VOC annotations as a COCO file. See --help."""

import sys

from yolor_d2.commands import convert_dataset
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(convert_dataset.main))
