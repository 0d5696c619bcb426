#!/usr/bin/env python
"""Write a model to a file that other runtimes read, and prove that it gives the same boxes."""

import sys

from yolor_d2.commands import export_model
from yolor_d2.commands.shell import run

if __name__ == "__main__":
    sys.exit(run(export_model.main))
