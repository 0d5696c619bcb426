#!/usr/bin/env python
"""Write a model to a file that other runtimes read, and prove that it gives the same boxes."""

import sys

from yolor_d2.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("export_model"))
