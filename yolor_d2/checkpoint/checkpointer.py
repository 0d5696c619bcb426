"""Saving and loading: Detectron2's checkpointer, plus the moving average and strict loading."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from ..d2.checkpoint import DetectionCheckpointer

# Name of the checkpoint with the best evaluation; a run never resumes from it.
BEST_NAME = "model_best"
# Where the head's tensors are, whose shapes depend on the number of classes.
HEAD_PREFIX = "head."


class YOLORCheckpointer(DetectionCheckpointer):
    """Saves the moving average as "model" and refuses weights that do not fit.

    Args:
        model: the model.
        save_dir: folder of the checkpoints.
        averaged: gives a context inside which the model carries its moving average.
        strict: loading fails when any tensor is missing, unexpected or of another shape; otherwise
            only the head may differ (another number of classes), which is logged.
        **checkpointables: saved along, see `DetectionCheckpointer`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        averaged: Callable[[], AbstractContextManager] = nullcontext,
        strict: bool = False,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.averaged = averaged
        self.strict = strict

    def save(self, name: str, **kwargs: Any) -> None:
        with self.averaged():
            super().save(name, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if not last_filename_basename.startswith(BEST_NAME):
            super().tag_last_checkpoint(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        # A run goes on with exactly its own weights.
        self.strict = self.strict or (resume and self.has_checkpoint())
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when its weights do not fit, see the class.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"MODEL.WEIGHTS or last checkpoint: no such file {path!r}")
        self.path = path
        return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint: dict) -> Any:
        found = super()._load_model(checkpoint)
        faults = {
            "missing": list(found.missing_keys),
            "unexpected": list(found.unexpected_keys),
            "of another shape": [key for key, *_ in found.incorrect_shapes],
        }
        if not self.strict:
            faults = {
                kind: [key for key in keys if not key.startswith(HEAD_PREFIX)]
                for kind, keys in faults.items()
            }
        text = "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in faults.items()
            if keys
        )
        if text:
            raise ValueError(f"the weights in {self.path!r} do not fit the model: {text}")
        return found
