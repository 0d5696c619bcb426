"""Parts of the model that are not trained."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..d2.engine import HookBase

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let parameters need no gradient.

    Args:
        model: changed in place.
        patterns: names of parameters, or of modules with all that is in them; "*" stands for
            anything, as in shells.

    Raises:
        ValueError: when a pattern fits no parameter, or when nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        names = [
            name
            for name in parameters
            if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        ]
        if not names:
            modules = [name for name, _ in model.named_modules() if name]
            near = difflib.get_close_matches(pattern, [*modules, *parameters], n=3)
            raise ValueError(
                f"SOLVER.FREEZE: {pattern!r} fits no parameter of the model; "
                f"near are {near or list(dict(model.named_children()))}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
    trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
    if trained == 0:
        raise ValueError(f"SOLVER.FREEZE: {list(patterns)} leaves no parameter to train")
    if patterns:
        logger.info(
            "%d of %d parameters are trained, as SOLVER.FREEZE is %s",
            *(trained, sum(p.numel() for p in parameters.values()), list(patterns)),
        )


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms of which no parameter is trained."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.affine
        and not any(p.requires_grad for p in module.parameters())
    ]


class FrozenNormHook(HookBase):
    """Keeps frozen batch norms in evaluation mode, to keep their statistics.

    Args:
        norms: see `frozen_norms`.
    """

    def __init__(self, norms: Sequence[nn.Module]):
        self.norms = norms

    def before_step(self) -> None:
        # The trainer, and every evaluation when it is over, put the whole model into training mode.
        for norm in self.norms:
            norm.eval()
