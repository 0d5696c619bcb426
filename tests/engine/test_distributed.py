"""Two processes on the CPU: what they share, and that none waits for the other in vain.

What two processes compute is one process with accumulation, not one process with the whole batch:
box and class terms are means over the positives of a process's own images, as in the reference, and
batch norm (without SyncBN) takes its statistics over them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Process

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.config import CfgNode
from yolor_d2.data.loader import build_train_loader
from yolor_d2.data.options import use_data
from yolor_d2.data.training_data import TrainingData
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.engine.teacher import add_teacher
from yolor_d2.tasks import settle_tasks
from yolor_d2.toy import write_toy_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(RUNTIME != "detectron2", reason="several processes need Detectron2"),
]

REPOSITORY = Path(__file__).parents[2]
WORLD_SIZE = 2


@pytest.fixture
def shared(cfg) -> CfgNode:
    """Three iterations of four images, two in each process."""
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 3, 100
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6  # something to evaluate
    return cfg


def run(scenario: str, cfg: CfgNode) -> list[tuple[int, str]]:
    """Exit code and output of each process; fails if they take more than two minutes."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    config = folder / "given.yaml"
    config.write_text(cfg.dump(), encoding="utf-8")
    worker = Path(__file__).with_name("distributed_worker.py")
    logs = [folder / f"output_{rank}.txt" for rank in range(WORLD_SIZE)]
    processes = [
        Process([worker, scenario, config, rank, WORLD_SIZE, folder / "store"], log)
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(code, log.read_text()) for code, log in zip(codes, logs)]


def gradients(cfg: CfgNode, parts: list[list[dict]]) -> dict[str, torch.Tensor]:
    """Sum over parts of a batch in one process."""
    torch.manual_seed(0)
    model = add_teacher(cfg, Trainer.build_model(cfg), Trainer.build_model).train()
    for part in parts:
        sum(model(part).values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Greatest difference, as a fraction of the greatest gradient."""
    assert left.keys() == right.keys()
    scale = max(value.abs().max().item() for value in left.values())
    return max((left[name] - right[name]).abs().max().item() for name in left) / scale


def test_gradients_and_evaluation(shared):
    for code, output in run("plain", shared):
        assert code == 0, output[-4000:]
    batch = next(iter(build_train_loader(shared)))
    found = torch.load(Path(shared.OUTPUT_DIR) / "gradients.pth", weights_only=True)
    # Each process has a half of the batch. They equal the sum over their parts ...
    parts = [batch[:2], batch[2:]]
    assert distance(found, gradients(shared, parts)) < 1e-5
    # ... and not the whole batch at once.
    assert distance(found, gradients(shared, [batch])) > 1e-2

    # Each process evaluated half of the images with the weights that were saved.
    rows = (Path(shared.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    figures = next(row for row in map(json.loads, rows) if "bbox/AP50" in row)
    model = Trainer.build_model(shared)
    path = Path(shared.OUTPUT_DIR) / "model_final.pth"
    YOLORCheckpointer(model, strict=True).load(str(path))
    expected = Trainer.test(shared, model)["bbox"]
    assert expected["AP50"] > 0
    assert figures["bbox/AP50"] == pytest.approx(expected["AP50"], abs=1e-6)
    assert figures["bbox/AP"] == pytest.approx(expected["AP"], abs=1e-6)


def test_auxiliary_heads_are_trained_by_all_processes(shared):
    """Every parameter takes part in the loss, or the second iteration would refuse to start."""
    shared.DATASETS.TEST = ()
    shared.MODEL.YOLOR.VARIANT = "yolov7_w6"
    shared.MODEL.YOLOR.WIDTH_FACTOR, shared.MODEL.YOLOR.DEPTH_FACTOR = 0.125, 0.25
    for code, output in run("plain", shared):
        assert code == 0, output[-4000:]
    found = torch.load(Path(shared.OUTPUT_DIR) / "gradients.pth", weights_only=True)
    assert found["head.auxiliary.3.weight"].any()
    batch = next(iter(build_train_loader(shared)))
    assert distance(found, gradients(shared, [batch[:2], batch[2:]])) < 1e-5


def test_a_teacher_is_trained_along_by_all_processes(shared):
    shared.DATASETS.TEST = ()
    shared.MODEL.YOLOR.WIDTH_FACTOR = 0.25
    shared.MODEL.YOLOR.TEACHER.CONFIG = "yolov7_tiny.yaml"
    for code, output in run("plain", shared):
        assert code == 0, output[-4000:]
    found = torch.load(Path(shared.OUTPUT_DIR) / "gradients.pth", weights_only=True)
    assert {name.partition(".")[0] for name in found} == {"student", "teacher"}
    batch = next(iter(build_train_loader(shared)))
    assert distance(found, gradients(shared, [batch[:2], batch[2:]])) < 1e-5
    assert (Path(shared.OUTPUT_DIR) / "teacher_final.pth").is_file()


def test_a_process_without_any_box_holds_nobody_up(shared):
    shared.DATASETS.TEST = ()
    shared.SOLVER.NOMINAL_BATCH, shared.SOLVER.WARMUP_ITERS = 8, 0  # two batches an iteration
    for code, output in run("empty", shared):
        assert code == 0, output[-4000:]
    assert (Path(shared.OUTPUT_DIR) / "model_final.pth").is_file()


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(shared):
    shared.DATASETS.TEST = ()
    for code, output in run("signal", shared):
        assert code == 143, output[-4000:]
        assert "stopped after 2 iterations" in output
    saved = torch.load(Path(shared.OUTPUT_DIR) / "model_0000001.pth", weights_only=True)
    assert saved["iteration"] == 1


def test_a_loss_that_is_not_finite_in_one_process_stops_all(shared):
    shared.DATASETS.TEST = ()
    (first, output), (second, named) = run("nan", shared)
    assert first == second == 1
    assert "not finite at iteration 0: in another process" in output
    assert "loss_box = nan" in named and ".jpg" in named
    assert not list(Path(shared.OUTPUT_DIR).glob("model_*.pth"))


def test_figures_of_further_tasks_are_those_of_all_processes(shared, tmp_path):
    data = write_toy_dataset(
        tmp_path / "data", num_train=8, num_val=6, image_size=(96, 128), identities=3
    )
    files = [
        (str(data.train_json), str(data.train_images)),
        (str(data.val_json), str(data.val_images)),
    ]
    use_data(shared, *files)
    tasks = shared.MODEL.YOLOR.TASKS
    tasks.CLASSIFICATION.ENABLED = tasks.EMBEDDING.ENABLED = True
    register_datasets(shared)
    settle_tasks(shared, TrainingData(shared))
    for code, output in run("plain", shared):
        assert code == 0, output[-4000:]
    rows = (Path(shared.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    figures = next(row for row in map(json.loads, rows) if "embedding/found" in row)
    model = Trainer.build_model(shared)
    path = Path(shared.OUTPUT_DIR) / "model_final.pth"
    YOLORCheckpointer(model, strict=True).load(str(path))
    expected = Trainer.test(shared, model)
    assert expected["embedding"]["found"] > 0
    for task, metric in [
        ("classification", "mAP"),
        ("embedding", "found"),
        ("embedding", "mAP"),
        ("embedding", "AUC"),
    ]:
        assert figures[f"{task}/{metric}"] == pytest.approx(expected[task][metric], abs=1e-6)
