"""YOLOR ("You Only Learn One Representation", arXiv 2105.04206) for Detectron2.

Importing the package registers its models, with Detectron2 or with the built-in runtime: at once if
Detectron2's models are imported already, otherwise together with them. So the import itself brings
neither torch nor Detectron2, and YOLOR is in the registries whenever they are used. The core
(`yolor_d2.layers`, `yolor_d2.networks`, `yolor_d2.ops`) works on torch and torchvision alone.

`yolor_d2.load` gives a trained model (`yolor_d2.api`); it brings both when it is first asked for.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from ._moved import install as _install_former_names

if TYPE_CHECKING:
    from .api import load as load

__all__ = ["load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module(".api", __name__).load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load"])


def _register(_registries: ModuleType) -> None:
    importlib.import_module(".modeling", __name__)


# Where the registries of either runtime are; no registry can be seen before its module is imported.
for _name in ("detectron2.modeling", f"{__name__}._builtin.modeling"):
    wrapt.register_post_import_hook(_register, _name)

_install_former_names()
