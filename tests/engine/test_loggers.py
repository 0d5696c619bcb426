"""W&B and MLflow get the metrics of a run, and a resumed run continues there."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.utils import EventStorage
from yolor_d2.engine import Trainer
from yolor_d2.engine.monitoring import loggers
from yolor_d2.engine.monitoring.loggers import (
    IDENTITY_NAME,
    MetricWriter,
    build_loggers,
    check_loggers,
)


def put(storage: EventStorage, iteration: int) -> None:
    storage.iter = iteration
    storage.put_scalar("total_loss", 10.0 - iteration, smoothing_hint=False)
    storage.put_scalar("bbox/AP-a*b", 5.0 * iteration, smoothing_hint=False)
    storage.put_scalar("bbox/APs", float("nan"), smoothing_hint=False)


def log(cfg, start: int, end: int, *, completed: bool) -> None:
    """What a training between two iterations does with its writers."""
    with EventStorage(start) as storage:
        (writer,) = build_loggers(cfg, lambda: completed)
        writer.begin()
        for iteration in range(start, end):
            put(storage, iteration)
            writer.write()
        writer.write()  # nothing new
        writer.close()


def test_unknown_loggers_are_refused(cfg):
    cfg.TRAIN.LOGGERS = ["wand"]
    with pytest.raises(ValueError, match=r"TRAIN\.LOGGERS has 'wand', expected some of 'wandb'"):
        Trainer(cfg)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(cfg, monkeypatch, name):
    cfg.TRAIN.LOGGERS = [name]
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ValueError, match=rf"pip install 'yolor_d2\[{name}\]'"):
        check_loggers(cfg)


def test_nothing_is_imported_for_runs_without_loggers(cfg, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    check_loggers(cfg)
    assert build_loggers(cfg, lambda: True) == []


class Failing(MetricWriter):
    name = "failing"

    def open(self) -> None:
        if self.cfg.TRAIN.PROJECT == "forbidden":
            raise ConnectionError("nobody answers")

    def send(self, iteration: int, row: dict[str, float]) -> None:
        raise ConnectionError("the server is away")

    def end(self, *, completed: bool) -> None:
        raise ConnectionError("the server is away")


def test_a_server_that_is_away_ends_no_training(cfg, monkeypatch, caplog):
    monkeypatch.setitem(loggers.LOGGERS, "failing", Failing)
    cfg.TRAIN.LOGGERS = ["failing"]
    log(cfg, 0, 3, completed=True)
    first, lost, end = [x.getMessage() for x in caplog.records]
    assert "metrics of iteration 0 (ConnectionError: the server is away)" in first
    assert "metrics of 3 iterations" in lost and "cannot end its run" in end


def test_what_cannot_begin_is_said_before_the_training(cfg, monkeypatch):
    monkeypatch.setitem(loggers.LOGGERS, "failing", Failing)
    cfg.TRAIN.LOGGERS, cfg.TRAIN.PROJECT = ["failing"], "forbidden"
    with pytest.raises(ValueError, match=r"failing cannot begin a run: ConnectionError: nobody"):
        log(cfg, 0, 1, completed=True)


@pytest.mark.heavy
def test_mlflow(cfg, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = (tmp_path / "tracking").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(uri)
    (tmp_path / "run").mkdir()
    cfg.TRAIN.LOGGERS, cfg.TRAIN.PROJECT = ["mlflow"], "birds"
    log(cfg, 0, 3, completed=False)
    client = mlflow.MlflowClient(uri)
    identity = json.loads((tmp_path / "run" / IDENTITY_NAME).read_text())["mlflow"]
    assert client.get_run(identity).info.status == "KILLED"
    # From the checkpoint after iteration 1 on, to another end.
    cfg.SOLVER.MAX_ITER += 1
    log(cfg, 2, 5, completed=True)
    (experiment,) = [x for x in client.search_experiments() if x.name == "birds"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == identity
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    losses = client.get_metric_history(identity, "total_loss")
    assert {(x.step, x.value) for x in losses} == {(i, 10.0 - i) for i in range(5)}
    assert run.data.metrics["bbox/AP-a_b"] == 20.0
    assert "bbox/APs" not in run.data.metrics  # NaN is no result
    assert run.data.params["SOLVER.IMS_PER_BATCH"] == "2"


def wandb_history(path: Path) -> list[dict]:
    """The metrics in a file of W&B: records of protobuf in LevelDB's format of logs."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts, rows = path.read_bytes(), 7, b"", []  # behind the file's own header
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the end of a block, too short for a header
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            items = record.history.item
            row = {"/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in items}
            rows += [row] if "iteration" in row else []
            parts = b""
    return rows


@pytest.mark.heavy
def test_wandb_offline(cfg, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "run").mkdir()
    cfg.TRAIN.LOGGERS = ["wandb"]
    log(cfg, 0, 2, completed=False)
    identity = json.loads((tmp_path / "run" / IDENTITY_NAME).read_text())["wandb"]
    log(cfg, 1, 4, completed=True)
    found, end = {}, time.monotonic() + 20  # W&B's own process writes the file
    while 3 not in found and time.monotonic() < end:
        for path in (tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{identity}.wandb"):
            found |= {row["iteration"]: row for row in wandb_history(path)}
        time.sleep(0.1)
    assert sorted(found) == [0, 1, 2, 3]
    assert found[3]["total_loss"] == 7.0 and found[3]["bbox/AP-a*b"] == 15.0
