"""The work of the commands, one module each with `main(args)`.

`yolor_d2.arguments` has a module of the same name that says what the command takes. It is imported
first, without torch and Detectron2: help and wrong calls need no more.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
    work = f"yolor_d2.commands.{name}"
    if work not in sys.modules:
        with without_collections():
            importlib.import_module(work)
    return sys.modules[work].main(args)


@contextmanager
def without_collections() -> Iterator[None]:
    """Import inside what stays: garbage is neither looked for meanwhile nor among it later.

    Of the time that the imports of a command take that is a tenth, and every full collection
    afterwards would look through all of it for most of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
