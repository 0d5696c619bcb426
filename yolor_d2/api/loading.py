"""A trained model from the folder of a run, or from a configuration and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import load_config
from ..runs import CONFIG_NAME, find_run
from .model import Model


def find_run_files(source: Path) -> tuple[Path, Path]:
    """Configuration and weights that a run's folder, or a checkpoint in it, stands for.

    Raises:
        FileNotFoundError: when something is missing.
    """
    run = find_run(source)
    if run is None:
        folder = source if source.is_dir() else source.parent
        raise FileNotFoundError(
            f"{str(folder)!r} is no run: it has no {CONFIG_NAME}; give a configuration and its "
            "weights, load(config, weights)"
        )
    if run.weights is None:
        raise FileNotFoundError(f"the run {str(run.folder)!r} has no checkpoint yet")
    return run.config, run.weights


def load(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    threshold: float | None = None,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
) -> Model:
    """A trained model.

    Args:
        source: the folder of a run, of which the best weights are taken, else the final or last
            ones; a checkpoint in such a folder; or, with `weights`, a configuration file or a name
            of the model zoo.
        weights: a file of weights, see MODEL.WEIGHTS; None finds those of the run.
        device: such as "cpu" or "cuda:1"; None takes a GPU where there is one.
        threshold: least score to report; None takes 0.25.
        batch_size: most images that go through the network together.
        overrides: KEY, VALUE, KEY, VALUE ... of the configuration.

    Raises:
        FileNotFoundError: when something is missing.
        ValueError: when the weights do not fit, or an argument makes no sense.
    """
    config: str | Path = source
    path = Path(source)
    if path.suffix.lower() in (".onnx", ".pt2", ".torchscript"):
        raise ValueError(
            f"{str(source)!r} is an exported file, for other runtimes (docs/export.md); load() "
            "takes the run that it came from"
        )
    if weights is None or path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder {str(source)!r}")
        if weights is None and path.suffix.lower() in (".yaml", ".yml"):
            raise ValueError(f"{str(source)!r} is a configuration: load() needs its weights too")
        config, run_weights = find_run_files(path)
        weights = run_weights if weights is None else weights
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", str(weights), *overrides]
    return Model(load_config(config, given), threshold=threshold, batch_size=batch_size)
