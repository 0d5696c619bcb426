"""Checkpoints: fvcore's checkpointer, for models of this runtime."""

from __future__ import annotations

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

# Constants of a model, which come from the configuration if the file has them not.
CONSTANTS = ("pixel_mean", "pixel_std")


class DetectionCheckpointer(Checkpointer):
    """Saves and loads `.pth` files; a file may also hold bare weights.

    Args:
        model: the model.
        save_dir: folder of the checkpoints.
        save_to_disk: False keeps `save` from writing; None writes.
        **checkpointables: objects with `state_dict` and `load_state_dict`, saved along.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk is not False, **checkpointables)

    def _load_file(self, f: str) -> dict:
        if f.endswith(".pkl"):
            raise NotImplementedError(
                f"{f!r}: the built-in runtime reads .pth files, Detectron2 also .pkl"
            )
        loaded = super()._load_file(f)
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: dict) -> Any:
        incompatible = super()._load_model(checkpoint)
        buffers = {name for name, _ in self.model.named_buffers(recurse=False)}
        for name in buffers.intersection(CONSTANTS, incompatible.missing_keys):
            incompatible.missing_keys.remove(name)
        return incompatible
