"""The seam: the only place that names `detectron2`.

One small file per Detectron2 namespace re-exports the names that this project uses: Detectron2's
where it is installed, else those of the built-in runtime. The environment variable
YOLOR_D2_RUNTIME chooses otherwise; see docs/runtimes.md.
"""

import logging
import multiprocessing
import warnings

from ..runtime import (
    INSTALL_COMMAND,
    RUNTIME,
    WANTED,
    choose_runtime,
    describe_runtime,
    is_installed,
)

# The registries first, and with them this project's models (see yolor_d2/__init__.py): they need
# other files of the seam, none of which may wait for them.
if RUNTIME == "detectron2":
    with warnings.catch_warnings():
        # torch finds fault with what Detectron2 does on import; its users cannot change that.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        import detectron2.modeling  # noqa: F401
else:
    from .._builtin import modeling as _modeling  # noqa: F401

# Once per command, not once more in each worker process of its loaders.
if RUNTIME == "builtin" and WANTED == "auto" and multiprocessing.parent_process() is None:
    logging.getLogger(__name__).warning(
        "Detectron2 is not installed: yolor_d2 uses its built-in runtime, for one process "
        "(docs/runtimes.md)."
    )

__all__ = ["INSTALL_COMMAND", "RUNTIME", "choose_runtime", "describe_runtime", "is_installed"]
