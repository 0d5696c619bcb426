"""Modules of the user that register parts of a model, such as operators and heads
(docs/extending.md).

A configuration is data and never imports anything. The user names modules on the command line
(`--import`) or in an environment variable, which processes that a command starts inherit; they are
imported as soon as the models are registered.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence

ENVIRONMENT_VARIABLE = "YOLOR_D2_IMPORT"
NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def announced() -> list[str]:
    """Names of the modules to import, in their order."""
    return [name for name in os.environ.get(ENVIRONMENT_VARIABLE, "").split(",") if name]


def announce(names: Sequence[str]) -> None:
    """Have modules imported with the models, in this process and in those that it starts.

    Raises:
        ValueError: when something is no name of a module.
        ModuleNotFoundError: when there is no such module.
    """
    for name in names:
        if not NAME.fullmatch(name):
            stem = os.path.splitext(os.path.basename(name))[0]
            near = f": {stem!r}, its folder in PYTHONPATH?" if name.endswith(".py") else ""
            raise ValueError(
                f"--import {name!r}: expected the name of a module, as after `import`{near}"
            )
        look_here()
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"--import: no module {name!r}, neither installed, nor in PYTHONPATH, nor in "
                f"{os.getcwd()!r}"
            )
    known = announced()
    added = [name for name in dict.fromkeys(names) if name not in known]
    if added:
        os.environ[ENVIRONMENT_VARIABLE] = ",".join([*known, *added])


def look_here() -> None:
    """Find modules in the working directory too, behind everything else."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def import_announced() -> None:
    """Import what has been announced."""
    for name in announced():
        look_here()
        importlib.import_module(name)
