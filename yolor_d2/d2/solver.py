"""What wraps an optimiser."""

from detectron2.solver.build import maybe_add_gradient_clipping

__all__ = ["maybe_add_gradient_clipping"]
