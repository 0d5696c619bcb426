"""YOLOR ("You Only Learn One Representation", arXiv 2105.04206) for Detectron2.

Importing the package registers its models with Detectron2, or with the built-in runtime where that
is not installed. The core (`yolor_d2.layers`, `yolor_d2.networks`, `yolor_d2.ops`) works on torch
and torchvision alone.
"""

import importlib.util

__version__ = "0.1.0"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


# Whichever runtime is used, it stands on these; without them there is the core alone. A Detectron2
# that is installed but broken raises here.
if _is_installed("detectron2") or all(map(_is_installed, ("fvcore", "iopath", "yacs"))):
    from . import modeling as _modeling  # noqa: F401
