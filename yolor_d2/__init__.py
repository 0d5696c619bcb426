"""YOLOR ("You Only Learn One Representation", arXiv 2105.04206) for Detectron2.

Importing the package registers its models with Detectron2 where that is installed. The core
(`yolor_d2.layers`, `yolor_d2.networks`, `yolor_d2.ops`) works on torch and torchvision alone.
"""

import importlib.util

__version__ = "0.1.0"


def _detectron2_installed() -> bool:
    try:
        return importlib.util.find_spec("detectron2") is not None
    except ImportError:
        return False


if _detectron2_installed():
    from . import modeling as _modeling  # noqa: F401  (an installed but broken Detectron2 raises here)
