"""The work of the commands, one module each with `main(args)`.

`yolor_d2.arguments` has a module of the same name that says what the command takes. It is imported
first, without torch and Detectron2: help and wrong calls need no more.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ..own_modules import announce


def execute(name: str, argv: Sequence[str] | None = None) -> int | None:
    """Run a command: parse, look for the files that are named, and only then import the work.

    Args:
        name: of the modules.
        argv: its arguments; None takes those of the process.

    Returns:
        An exit status, None standing for 0.
    """
    arguments = importlib.import_module(f"yolor_d2.arguments.{name}")
    args = arguments.parse_args(argv)
    announce(getattr(args, "imports", ()))
    arguments.check_inputs(args)
    return importlib.import_module(f"yolor_d2.commands.{name}").main(args)
