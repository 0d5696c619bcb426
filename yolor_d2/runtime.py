"""Which runtime carries this project: Detectron2, or the built-in one (docs/runtimes.md).

It needs neither torch nor Detectron2.
"""

from __future__ import annotations

import importlib.util
import os

ENVIRONMENT_VARIABLE = "YOLOR_D2_RUNTIME"
CHOICES = ("auto", "detectron2", "builtin")
INSTALL_COMMAND = (
    "pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'"
)


def is_installed() -> bool:
    """Whether Detectron2 can be found; whether it works shows when it is imported."""
    try:
        spec = importlib.util.find_spec("detectron2")
    except ImportError:
        return False
    # A folder of that name, such as a checkout in the working directory, is found without origin.
    return spec is not None and spec.origin is not None


def choose_runtime(wanted: str, installed: bool) -> str:
    """The runtime to use, "detectron2" or "builtin".

    Args:
        wanted: value of the environment variable.
        installed: whether Detectron2 can be found.

    Raises:
        ValueError: when there is no such choice.
        ModuleNotFoundError: when Detectron2 is wanted and not there; it names the command that
            installs it.
    """
    if wanted not in CHOICES:
        raise ValueError(f"{ENVIRONMENT_VARIABLE} is {wanted!r}, expected one of {CHOICES}")
    if wanted == "auto":
        return "detectron2" if installed else "builtin"
    if wanted == "detectron2" and not installed:
        raise ModuleNotFoundError(
            f"{ENVIRONMENT_VARIABLE} is 'detectron2', but Detectron2 is not installed. Install it "
            f"with: {INSTALL_COMMAND}",
            name="detectron2",
        )
    return wanted


def describe_runtime() -> str:
    """The runtime's name, for logs."""
    return {"detectron2": "Detectron2", "builtin": "yolor_d2's built-in runtime"}[RUNTIME]


# What the environment asks for.
WANTED = os.environ.get(ENVIRONMENT_VARIABLE, "") or "auto"
RUNTIME = choose_runtime(WANTED, is_installed())
