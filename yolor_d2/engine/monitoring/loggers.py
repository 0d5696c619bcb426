"""Metrics of a run for W&B and MLflow, as Detectron2's event writers.

Their packages are imported on first use. Where metrics go is decided by the
packages' own settings, such as WANDB_MODE=offline and MLFLOW_TRACKING_URI. A run that is resumed
after an interruption continues the same run there: its identity lies in OUTPUT_DIR/loggers.json.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...config import list_keys
from ...d2.config import CfgNode
from ...d2.utils import EventWriter, get_event_storage
from ...files.writing import atomic_write
from ..lengths import get_key

logger = logging.getLogger(__name__)

# Identities of the runs by logger.
IDENTITY_NAME = "loggers.json"
# Iterations over which noisy metrics are reduced to their median, as in metrics.json.
WINDOW = 20
# What MLflow takes at a time, and for the value of a parameter.
MLFLOW_BATCH = 100
MLFLOW_VALUE = 500
# What MLflow does not take in a name.
MLFLOW_REFUSED = re.compile(r"[^\w\-. :/]")


def read_identity(folder: Path, name: str) -> str | None:
    """The run of a logger that this folder belongs to; None if there is none yet."""
    path = folder / IDENTITY_NAME
    try:
        identity = (
            json.loads(path.read_text(encoding="utf-8")).get(name) if path.is_file() else None
        )
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} does not name the runs of the loggers: {error}") from error
    return identity


def write_identity(folder: Path, name: str, identity: str) -> None:
    path = folder / IDENTITY_NAME
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with atomic_write(path) as file:
        file.write(json.dumps({**known, name: identity}, indent=1).encode())


class MetricWriter(EventWriter):
    """Gives the metrics that are new to a logger, one iteration after the other.

    Args:
        cfg: the configuration of the run.
        is_completed: tells at the end whether the run has come to its end.
    """

    name = ""

    def __init__(self, cfg: CfgNode, is_completed: Callable[[], bool]):
        self.cfg = cfg
        self.folder = Path(cfg.OUTPUT_DIR)
        self.is_completed = is_completed
        self.run_name = cfg.TRAIN.RUN_NAME or self.folder.resolve().name
        self.last = -1
        self.is_open = False
        # Iterations whose metrics were not taken.
        self.lost = 0

    def new_metrics(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(iteration, finite metrics by name) of what was not given yet."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        metrics = get_event_storage().latest_with_smoothing_hint(WINDOW)
        for name, (value, iteration) in metrics.items():
            if iteration > self.last and math.isfinite(value):
                rows[iteration][name] = float(value)
        self.last = max([self.last, *rows])
        return iter(sorted(rows.items()))

    def settings(self) -> dict[str, Any]:
        """All keys of the configuration with their values."""
        return {key: get_key(self.cfg, key) for key in list_keys(self.cfg)}

    def begin(self) -> None:
        """Begin a run there, or continue the one that this folder belongs to.

        Raises:
            ValueError: when the logger cannot, so that a training does not begin in vain.
        """
        try:
            self.open()
        except Exception as error:  # whatever its package or a server makes of the settings
            raise ValueError(
                f"TRAIN.LOGGERS: {self.name} cannot begin a run: {type(error).__name__}: {error}"
            ) from error
        self.is_open = True

    def write(self) -> None:
        if not self.is_open:
            return
        for iteration, row in self.new_metrics():
            try:
                self.send(iteration, row)
            except Exception as error:  # a server that is away must not end the training
                self.lost += 1
                if self.lost == 1:
                    logger.warning(
                        "TRAIN.LOGGERS: %s has not taken the metrics of iteration %d (%s: %s); the "
                        "training goes on, and metrics.json has them",
                        *(self.name, iteration, type(error).__name__, error),
                    )

    def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self.lost > 1:
            logger.warning(
                "TRAIN.LOGGERS: %s has not taken the metrics of %d iterations", self.name, self.lost
            )
        try:
            self.end(completed=self.is_completed())
        except Exception as error:
            logger.warning(
                "TRAIN.LOGGERS: %s cannot end its run: %s: %s",
                *(self.name, type(error).__name__, error),
            )

    def open(self) -> None:
        """See `begin`."""
        raise NotImplementedError

    def send(self, iteration: int, row: dict[str, float]) -> None:
        """Give the metrics of an iteration."""
        raise NotImplementedError

    def end(self, *, completed: bool) -> None:
        """Nothing comes any more; the run has come to its end, or was interrupted or has failed."""
        raise NotImplementedError


class WandbWriter(MetricWriter):
    """Metrics for Weights & Biases."""

    name = "wandb"

    def open(self) -> None:
        import wandb

        identity = read_identity(self.folder, self.name)
        self.run = wandb.init(
            project=self.cfg.TRAIN.PROJECT,
            name=self.run_name,
            id=identity,
            resume="allow",
            dir=str(self.folder),
            config=self.settings(),
            allow_val_change=True,
        )
        # A resumed run repeats iterations, which W&B's own count of steps would refuse.
        self.run.define_metric("*", step_metric="iteration")
        write_identity(self.folder, self.name, self.run.id)

    def send(self, iteration: int, row: dict[str, float]) -> None:
        self.run.log({**row, "iteration": iteration})

    def end(self, *, completed: bool) -> None:
        self.run.finish(exit_code=0 if completed else 1)


class MlflowWriter(MetricWriter):
    """Metrics for MLflow."""

    name = "mlflow"

    def open(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        identity = read_identity(self.folder, self.name)
        if identity is not None:
            self.client.update_run(identity, status="RUNNING")
            self.identity = identity
            return
        project = self.cfg.TRAIN.PROJECT
        experiment = self.client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(project)
        self.identity = self.client.create_run(number, run_name=self.run_name).info.run_id
        write_identity(self.folder, self.name, self.identity)
        params = [Param(key, str(value)[:MLFLOW_VALUE]) for key, value in self.settings().items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self.client.log_batch(self.identity, params=params[start : start + MLFLOW_BATCH])
        self.client.set_tag(self.identity, "OUTPUT_DIR", str(self.folder.resolve()))

    def send(self, iteration: int, row: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [
            Metric(MLFLOW_REFUSED.sub("_", name), value, now, iteration)
            for name, value in row.items()
        ]
        for start in range(0, len(metrics), MLFLOW_BATCH):
            self.client.log_batch(self.identity, metrics=metrics[start : start + MLFLOW_BATCH])

    def end(self, *, completed: bool) -> None:
        self.client.set_terminated(self.identity, "FINISHED" if completed else "KILLED")


LOGGERS = {writer.name: writer for writer in (WandbWriter, MlflowWriter)}


def check_loggers(cfg: CfgNode) -> None:
    """Look for the packages of TRAIN.LOGGERS.

    Raises:
        ValueError: when a logger is unknown, or its package is not installed; the extra is named.
    """
    for name in cfg.TRAIN.LOGGERS:
        if name not in LOGGERS:
            raise ValueError(
                f"TRAIN.LOGGERS has {name!r}, expected some of {', '.join(map(repr, LOGGERS))}"
            )
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"TRAIN.LOGGERS has {name!r}, whose package cannot be imported ({error}): "
                f"pip install 'yolor_d2[{name}]'"
            ) from error


def build_loggers(cfg: CfgNode, is_completed: Callable[[], bool]) -> list[MetricWriter]:
    """The writers of TRAIN.LOGGERS, see `MetricWriter`."""
    return [LOGGERS[name](cfg, is_completed) for name in dict.fromkeys(cfg.TRAIN.LOGGERS)]
