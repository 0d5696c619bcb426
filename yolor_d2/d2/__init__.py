"""The seam: the only place that names `detectron2`.

One small file per Detectron2 namespace re-exports the names that this project uses.
"""

import importlib.util

INSTALL_COMMAND = (
    "pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'"
)

if importlib.util.find_spec("detectron2") is None:
    raise ModuleNotFoundError(
        f"Detectron2 is needed to train, evaluate and predict. Install it with: {INSTALL_COMMAND}",
        name="detectron2",
    )
