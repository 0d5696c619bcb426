"""Run a command for somebody at a shell: what is wrong in one line, the traceback on request."""

from __future__ import annotations

import errno
import importlib
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import os_error_behind

# What a user can mend: a value, a key, a file, a training that diverges. Anything else is our
# mistake.
USER_ERRORS = (ValueError, KeyError, OSError, FloatingPointError)
# A full disk, a quota, a limit on the size of a file.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended


def describe(error: BaseException) -> str:
    """The message of an error in one line.

    A KeyError prints its message with quotes, an OSError its number, and torch's messages end
    with hints for programmers.
    """
    text: object = error
    if isinstance(error, KeyError) and error.args:
        text = error.args[0]
    elif isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{str(error.filename)!r}: "
        text = f"{name}{error.strerror}"
    return " ".join(str(text).split()) or type(error).__name__


def from_process(error: Exception) -> tuple[type, str]:
    """Class and message of what a process raised, which its parent knows as a printed traceback."""
    # The last line that begins as "module.Name: message" does; those of the frames are indented.
    matches = list(re.finditer(r"^(?:([\w.]+)\.)?(\w+)(?:: |$)", str(error), re.MULTILINE))
    if not matches:
        return type(error), describe(error)
    module, name = matches[-1].groups(default="builtins")
    if module.partition(".")[0] == __package__.partition(".")[0]:
        importlib.import_module(module)
    kind = getattr(sys.modules.get(module), name, type(error))
    text = " ".join(re.sub(r"^\[Errno \d+\] ", "", str(error)[matches[-1].end() :]).split())
    return kind, text.strip("'\"") if kind is KeyError else text


def explain(error: Exception) -> tuple[type, str]:
    """Class and message of what a user should hear of."""
    # It is torch's; where nothing has imported that, nothing can have raised it.
    processes = sys.modules.get("torch.multiprocessing")
    if processes is not None and isinstance(error, processes.ProcessRaisedException):
        return from_process(error)
    behind = os_error_behind(error)
    if behind is not None and behind.errno in NO_SPACE:  # torch.save hides it
        return type(behind), describe(behind)
    return type(error), describe(error)


def run(
    command: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    program: str | None = None,
) -> int:
    """Call a command with its arguments.

    Args:
        command: takes the arguments; returns an exit status, None standing for 0.
        argv: arguments; None takes those of the process. `--debug` among them is meant for this
            function: an error then prints its traceback.
        program: name to begin error messages with; None takes that of the script.

    Returns:
        The exit status: that of the command, 1 after an error, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    # Where the log cannot be written, as on a full disk, there is no traceback for each line.
    logging.raiseExceptions = debug
    # What PIL says about metadata names no file, and the pixels are read all the same.
    warnings.filterwarnings("ignore", ".*corrupt EXIF", UserWarning)
    program = program or Path(sys.argv[0]).stem
    try:
        return command(argv) or 0
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        kind, text = explain(error)
        if not issubclass(kind, USER_ERRORS):
            text = f"{kind.__name__}: {text}" + ("" if debug else " (--debug shows where)")
        print(f"{program}: error: {text}", file=sys.stderr)
        return 1
