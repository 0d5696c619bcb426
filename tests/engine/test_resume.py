"""A run that was interrupted after any iteration ends as if it had not been, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.engine import HookBase
from yolor_d2.engine import Trainer
from yolor_d2.engine.random_state import get_random_state, set_random_state

ITERATIONS = 4


class Watch(HookBase):
    """Notes the images of each iteration, and what the global generators would give next."""

    def __init__(self):
        self.seen: list = []

    def after_step(self) -> None:
        self.seen.append([torch.rand(1).item(), np.random.rand(), random.random()])


def run(cfg: CfgNode, *, resume: bool = False) -> tuple[list, list]:
    """Train to the end; the draws, and the images of all batches."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    seed = 0 if not resume else 99  # what a resumed run was seeded with must not matter
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    watch, files = Watch(), []
    trainer._hooks.insert(0, watch)
    watch.trainer = trainer
    backward = trainer._trainer.backward

    def noted(batch):
        files.append([(x["file_name"], x["image"].sum().item()) for x in batch])
        return backward(batch)

    trainer._trainer.backward = noted
    trainer.train()
    return watch.seen, files


def load(folder: str | Path, name: str | None = None) -> dict:
    """A checkpoint of a run; without a name the last one."""
    name = name or (Path(folder) / "last_checkpoint").read_text()
    return torch.load(Path(folder) / name, weights_only=True)


def differences(left: object, right: object, where: str = "") -> list[str]:
    """Places where nested data differ in any bit."""
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return [where]
        return [x for key in left for x in differences(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [where]
        pairs = enumerate(zip(left, right))
        return [x for i, pair in pairs for x in differences(*pair, f"{where}/{i}")]
    if isinstance(left, torch.Tensor):
        return [] if torch.equal(left, right) else [where]
    return [] if left == right else [where]


VARIANTS = {
    "plain": [],
    # 1, 2 and 3 batches of 2 images an iteration, mosaics in the first part.
    "accumulation": [
        *("SOLVER.NOMINAL_BATCH", 6, "SOLVER.WARMUP_ITERS", 3),
        *("INPUT.AUGMENT.MOSAIC_OFF", 0.4, "DATALOADER.NUM_WORKERS", 2),
    ],
    "half": [
        *("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16", "SOLVER.CLIP_NORM", 5.0),
        *("MODEL.CHANNELS_LAST", True, "SOLVER.FREEZE", ["backbone.bottom_up.body.stages.0"]),
    ],
    "auxiliary heads": [
        *("MODEL.YOLOR.VARIANT", "yolov7_w6", "MODEL.YOLOR.WIDTH_FACTOR", 0.125),
        *("MODEL.YOLOR.DEPTH_FACTOR", 0.25, "SOLVER.NOMINAL_BATCH", 4, "SOLVER.WARMUP_ITERS", 2),
        *("SOLVER.FREEZE", ["backbone.neck.auxiliary.0"], "MODEL.CHANNELS_LAST", True),
        *("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"),
    ],
    # An evaluation after iteration 1, with a checkpoint before it.
    "image weights": ["DATALOADER.IMAGE_WEIGHTS", True, "TEST.EVAL_PERIOD", 2],
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_after_every_iteration(cfg, tmp_path, variant, monkeypatch):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = ITERATIONS, 1
    cfg.merge_from_list(VARIANTS[variant])
    if not cfg.DATALOADER.IMAGE_WEIGHTS:
        cfg.DATASETS.TEST = ()
    else:
        figures = {"AP": 20.0, "AP50": 40.0, "AP-ring": 90.0, "AP-cross": 0.0}
        monkeypatch.setattr(Trainer, "test", staticmethod(lambda cfg, model: {"bbox": figures}))
    draws, files = run(cfg)
    expected = load(cfg.OUTPUT_DIR)
    for done in range(1, ITERATIONS):
        again = cfg.clone()
        again.OUTPUT_DIR = str(tmp_path / f"again_{done}")
        name = f"model_{done - 1:07d}.pth"
        os.makedirs(again.OUTPUT_DIR)
        shutil.copy(Path(cfg.OUTPUT_DIR) / name, again.OUTPUT_DIR)
        (Path(again.OUTPUT_DIR) / "last_checkpoint").write_text(name)
        again_draws, again_files = run(again, resume=True)
        assert again_draws == draws[done:], f"after {done} iterations"
        assert again_files == files[-len(again_files) :]
        assert differences(load(again.OUTPUT_DIR), expected) == [], f"after {done} iterations"
        shutil.rmtree(again.OUTPUT_DIR)


@pytest.mark.slow
def test_images_are_drawn_by_weight_after_an_evaluation(cfg, monkeypatch):
    """Only crosses are still detected badly: every image drawn afterwards has one."""
    cfg.DATALOADER.IMAGE_WEIGHTS = True
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 10, 100
    cfg.INPUT.AUGMENT.MOSAIC = 0.0
    figures = {"AP": 100.0, "AP50": 100.0, "AP-cross": 0.0}
    monkeypatch.setattr(Trainer, "test", staticmethod(lambda cfg, model: {"bbox": figures}))
    _, files = run(cfg)
    from yolor_d2.data.training_data import TrainingData

    truth = TrainingData(cfg).read()
    crosses = {name for i, name in enumerate(truth.file_names) if 2 in truth.labels[truth.rows(i)]}
    named = [{name for name, _ in batch} for batch in files]
    assert all(names <= crosses for names in named[2:])
    assert 0 < len(crosses) < 24


@pytest.mark.slow
def test_another_run_is_continued_with_another_length(cfg, tmp_path, monkeypatch):
    """The second stage: weights, average, optimiser and iteration of the first, a longer cosine."""
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    run(cfg)
    second = cfg.clone()
    source = Path(cfg.OUTPUT_DIR) / "model_0000003.pth"
    second.OUTPUT_DIR = str(tmp_path / "second")
    second.SOLVER.CONTINUE_FROM = str(source)
    second.SOLVER.MAX_ITER = 9
    os.makedirs(second.OUTPUT_DIR)
    trainer = Trainer(second)
    trainer.resume_or_load(resume=True)  # nothing there yet
    assert trainer.start_iter == 4
    momentum = load(cfg.OUTPUT_DIR, source.name)["trainer"]["_trainer"]["optimizer"]["state"]
    for index, state in trainer.optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momentum[index]["momentum_buffer"])
    # The first iteration already has the learning rate of the new cosine.
    expected = trainer.scheduler.cosine(4) * cfg.SOLVER.BASE_LR
    assert trainer.optimizer.param_groups[0]["lr"] == expected
    assert expected != pytest.approx(trainer.scheduler.cosine(4 * 9 / 6) * cfg.SOLVER.BASE_LR)
    trainer.train()
    assert load(second.OUTPUT_DIR)["iteration"] == 8
    # From then on the run resumes from its own checkpoints.
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])  # nothing to close
    trainer = Trainer(second)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 9


def test_what_cannot_be_continued_is_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])  # nothing to close
    torch.save({"model": {}}, tmp_path / "weights.pth")
    cfg.SOLVER.CONTINUE_FROM = str(tmp_path / "weights.pth")
    os.makedirs(cfg.OUTPUT_DIR)
    with pytest.raises(ValueError, match=r"CONTINUE_FROM.*weights\.pth.*no iteration, trainer"):
        Trainer(cfg).resume_or_load()
    cfg.MODEL.WEIGHTS = "other.pth"
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS must be empty.*other\.pth"):
        Trainer(cfg).resume_or_load()


def test_random_states_are_plain_and_come_back(tmp_path):
    random.gauss(0, 1), np.random.randn()  # both keep a second value
    torch.save(get_random_state(), tmp_path / "state.pth")
    expected = [torch.rand(2).tolist(), np.random.randn(2).tolist(), random.gauss(0, 1)]
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [torch.rand(2).tolist(), np.random.randn(2).tolist(), random.gauss(0, 1)] == expected
