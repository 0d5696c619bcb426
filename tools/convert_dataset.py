#!/usr/bin/env python
"""Write YOLO or Pascal VOC annotations as a COCO file. See --help."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("convert_dataset"))
