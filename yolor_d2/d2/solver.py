"""What wraps an optimiser."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.solver.build import maybe_add_gradient_clipping
else:
    from .._builtin.solver import maybe_add_gradient_clipping

__all__ = ["maybe_add_gradient_clipping"]
