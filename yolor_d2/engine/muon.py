"""Muon: momentum whose step is orthogonalised, so that all directions of a layer learn at one pace.

The method is Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the
scale of the steps is that of Liu et al. 2025, "Muon is scalable for LLM training" (arXiv
2502.16982, section 2.2). `torch.optim.Muon` takes matrices alone, not the weights of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A step pulls every singular value s to a s + b s^3 + c s^5. Jordan's coefficients trade an exact
# 1 for speed: after 5 steps what was above 1/1000 of the norm lies in about 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of the entries of a step over the learning rate, as is usual with Adam, whose
# learning rates and decays then fit (Liu et al., equation 4).
STEP_RMS = 0.2


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with orthonormal rows (or columns, if there are fewer), roughly.

    A Newton-Schulz iteration. All its factors are polynomials of the Gram matrix G = X X^T; they
    are multiplied there, which for the wide matrices of convolutions costs less than half of
    iterating on X.

    Args:
        matrix: (rows, columns), finite.
        steps: iterations, at least 1.

    Returns:
        Same shape. With the singular value decomposition U S V^T of the input it is U S' V^T, S'
        near 1 (see `COEFFICIENTS`); 0 for 0.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-12)
    a, b, c = COEFFICIENTS
    gram = wide @ wide.T  # (R, R), R the shorter side
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = None
    for step in range(steps):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    assert product is not None
    result = product @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


def orthogonal_step(matrix: Tensor, block: int = 0) -> Tensor:
    """What a learning rate of 1 takes away from a weight.

    Args:
        matrix: (rows, columns) direction.
        block: rows that are orthogonalised together, 0 for all.

    Returns:
        Same shape. Where rows are at least as long as they are many, its entries have a root mean
        square of about `STEP_RMS`, however many rows a block has.
    """
    blocks = []
    for part in matrix.split(block or len(matrix)):
        # Orthonormal rows of length n have the root mean square 1 / sqrt(n).
        blocks.append(orthogonalize(part) * (STEP_RMS * max(part.shape) ** 0.5))
    return torch.cat(blocks)


class Muon(torch.optim.SGD):
    """SGD in which groups with the key "orthogonal" take orthogonalised steps.

    A weight of such a group counts as the matrix (outputs, everything else), as a convolution
    applies it. With "block" in the group its rows are orthogonalised so many at a time, for much
    less work, as that grows with the square of their number. Its decay is decoupled: each step also
    takes away the fraction lr * weight_decay.

    The arguments are those of `torch.optim.SGD`. "orthogonal" is False where it is missing, "block"
    0, which is all rows together; weights in orthogonal groups have at least two dimensions.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups; the result of `closure`, which is called first, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group.get("orthogonal", False):
                self.step_orthogonal(group)
        # SGD's own step sees its own groups alone.
        self.param_groups = [group for group in groups if not group.get("orthogonal", False)]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def step_orthogonal(self, group: dict) -> None:
        """Move the parameters of one orthogonal group."""
        momentum, lr = group["momentum"], group["lr"]
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
            direction = gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer
            step = orthogonal_step(direction.flatten(1).float(), group.get("block", 0))
            parameter.mul_(1 - lr * group["weight_decay"])
            parameter.add_(step.reshape(parameter.shape).to(parameter.dtype), alpha=-lr)
