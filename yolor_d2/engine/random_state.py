"""The global random generators, as part of what a resumed run takes over.

Data draw from generators of their own (`data.sampler`); whatever else is drawn during training
comes from the global ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..d2.engine import HookBase


def get_random_state() -> dict:
    """States of torch (CPU and all GPUs), numpy and random: tensors and plain Python values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
    }


def set_random_state(state: dict) -> None:
    """Go back to what `get_random_state` returned; GPUs count only if there are as many."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """What happens inside leaves no trace in the global generators."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


class RandomStateHook(HookBase):
    """Saves the states with each checkpoint; a resumed run begins with them.

    A checkpoint has those of the main process; other processes keep their own seeds.
    """

    def __init__(self):
        self.loaded: dict | None = None

    def before_train(self) -> None:
        if self.loaded is not None:
            set_random_state(self.loaded)
            self.loaded = None

    def state_dict(self) -> dict:
        return get_random_state()

    def load_state_dict(self, state: dict) -> None:
        self.loaded = state
