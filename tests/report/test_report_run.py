"""The report at the end of a training and of an evaluation, through the commands' own functions."""

import json
import logging
from pathlib import Path

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.arguments.train_net import parse_args
from yolor_d2.commands import train_net
from yolor_d2.d2.data import MetadataCatalog
from yolor_d2.d2.modeling import build_model
from yolor_d2.engine import Trainer
from yolor_d2.evaluation.stages import STAGES, StageTimer
from yolor_d2.modeling.inference import prepare_for_inference
from yolor_d2.report.files import keep_for_report, read_report, write_record
from yolor_d2.report.write import write_reports


@pytest.fixture
def cfg(cfg):
    """Two iterations with an evaluation after each, and a report."""
    cfg.TEST.REPORT = True
    cfg.TEST.EVAL_PERIOD = 1
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.WARMUP_ITERS = 1
    cfg.SOLVER.CHECKPOINT_PERIOD = 10
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 0.0  # so short a training finds nothing otherwise
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    Path(cfg.OUTPUT_DIR).mkdir()
    return cfg


def evaluate(cfg, weights: Path, output: Path) -> dict:
    """As `tools/train_net.py --eval-only` does, in this process."""
    config = output.parent / "eval.yaml"
    config.write_text(cfg.dump())
    words = ["--config-file", config, "--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", output]
    return train_net.work(parse_args(list(map(str, words))))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # Detectron2 leaves the file of the configuration open.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_training_and_evaluation_end_with_a_report(cfg, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "yolor_d2.report.write.write_reports",
        lambda *x: written.append(x[1]) or write_reports(*x),
    )
    trainer = Trainer(cfg)
    trainer.train()
    results = trainer._last_eval_results
    assert written == ["iteration 2, moving average"]  # after the last evaluation alone
    folder = Path(cfg.OUTPUT_DIR)
    found = read_report(folder / "report.json")
    assert found["weights"] == written[0]
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        expected = results["bbox"][name]
        value = float("nan") if found["figures"][name] is None else found["figures"][name]
        assert value == pytest.approx(expected, abs=1e-6, nan_ok=True), name
    # The last evaluation is among the curves.
    assert found["training"]["precisions"]["bbox/AP"][-1][1] == found["figures"]["AP"]
    assert list(found["speed"]["milliseconds"]) == list(STAGES)
    assert min(found["speed"]["milliseconds"].values()) > 0
    assert found["speed"]["images"] == 3  # of 8, after 5 to warm up
    assert (folder / "report.html").stat().st_size > 50_000
    assert found["config"]["changed"]["SOLVER.MAX_ITER"] == "2"

    # The same weights, elsewhere: curves are those beside the weights.
    again = evaluate(cfg, folder / "model_final.pth", tmp_path / "again")
    assert written[1:] == [str(folder / "model_final.pth")]
    other = read_report(tmp_path / "again" / "report.json")
    assert other["figures"] == found["figures"]
    assert other["training"] == found["training"]
    assert again["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"])


@pytest.mark.slow
def test_a_failing_report_loses_nothing(cfg, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no page today")

    monkeypatch.setattr("yolor_d2.report.write.build_report", fail)
    with caplog.at_level(logging.ERROR, "yolor_d2"):
        trainer = Trainer(cfg)
        trainer.train()
    assert trainer._last_eval_results["bbox"]["AP"] >= 0
    folder = Path(cfg.OUTPUT_DIR)
    assert (folder / "model_final.pth").is_file()
    assert not list(folder.glob("report*"))
    (line,) = [x.getMessage() for x in caplog.records if "No report" in x.getMessage()]
    assert "whose results stand: RuntimeError: no page today" in line
    assert f"yolor-d2 report {folder} --debug" in line


@pytest.mark.heavy
@pytest.mark.parametrize("augmented", [False, True])
def test_stages_are_measured_and_the_model_is_left_as_it_was(cfg, augmented):
    cfg.TEST.AUG.ENABLED = augmented
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 0.9  # an untrained network has many uncertain detections
    model = prepare_for_inference(build_model(cfg).eval(), cfg)
    inner = model.model if augmented else model
    attributes = set(vars(inner))
    timer = StageTimer(model)
    images = [{"image": torch.zeros(3, 320, 320, dtype=torch.uint8)}]
    with torch.no_grad(), timer.watching():
        timer.reset()
        for _ in range(7):
            timer.process(images, model(images))
    assert set(vars(inner)) == attributes
    summary = timer.summary()
    assert summary["images"] == 2
    assert all(value > 0 for value in summary["milliseconds"].values())
    # Most of the time is in the convolutions, even of so small a network.
    assert max(summary["milliseconds"], key=summary["milliseconds"].get) == "network"
    timer.reset()
    assert timer.summary() is None


def test_records_that_cannot_be_kept_are_logged(cfg, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yolor_d2.report.files.write_record", fail)
    name = cfg.DATASETS.TEST[0]
    assert MetadataCatalog.get(name).json_file
    with caplog.at_level(logging.ERROR, "yolor_d2"):
        keep_for_report(cfg, name, {"bbox": {}}, None)
    assert "No space left on device" in caplog.text


def test_evaluation_record_grows(tmp_path):
    write_record(tmp_path, figures={"bbox": {"AP": float("nan")}})
    write_record(tmp_path, weights="x.pth")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == {"figures": {"bbox": {"AP": None}}, "weights": "x.pth"}
