"""A run ends when its fitness no longer rises, as if it had been meant to end there."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.d2.engine import HookBase
from yolor_d2.d2.utils import EventStorage
from yolor_d2.engine import Trainer
from yolor_d2.engine.hooks import FITNESS, EarlyStoppingHook


class FakeTrainer:
    """What the hook asks of a trainer."""

    def __init__(self):
        self.storage = EventStorage(0)
        self.start_iter, self.iter, self.max_iter = 0, 0, 100
        self.ended: list[int] = []

    def end_early(self, done: int) -> None:
        self.ended.append(done)

    def evaluate(self, hook: EarlyStoppingHook, done: int, value: float) -> None:
        self.iter = self.storage.iter = done - 1
        self.storage.put_scalar(FITNESS, value, smoothing_hint=False)
        hook.after_step()


def attach(hook: EarlyStoppingHook) -> FakeTrainer:
    hook.trainer = FakeTrainer()
    return hook.trainer


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ([1, 2, 3, 4], None),
        ([5, 4, 4], 6),  # two evaluations after the best one
        ([5, 4, 6, 6, 6], 10),  # equal is no rise
        ([float("nan"), float("nan")], 4),  # nothing is detected
        ([float("nan"), 1, 0.5, 2], None),
    ],
)
def test_counts_evaluations_since_the_best(values, end):
    hook = EarlyStoppingHook(2, 2)
    trainer = attach(hook)
    for number, value in enumerate(values, start=1):
        trainer.evaluate(hook, 2 * number, value)
    assert trainer.ended == ([] if end is None else [end])


def test_iterations_without_an_evaluation_do_not_count():
    hook = EarlyStoppingHook(3, 1)
    trainer = attach(hook)
    trainer.evaluate(hook, 3, 5.0)
    for trainer.iter in range(3, 5):
        hook.after_step()
    assert trainer.ended == []
    trainer.evaluate(hook, 6, 5.0)
    assert trainer.ended == [6]


def test_a_resumed_run_counts_no_evaluation_twice():
    hook = EarlyStoppingHook(2, 2)
    trainer = attach(hook)
    trainer.evaluate(hook, 2, 5.0)
    trainer.evaluate(hook, 4, 4.0)
    resumed = EarlyStoppingHook(2, 2)
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    trainer = attach(resumed)
    trainer.start_iter, trainer.storage.iter = 4, 3
    # The evaluation of the checkpoint is repeated.
    trainer.storage.put_scalar(FITNESS, 4.0, smoothing_hint=False)
    resumed.before_train()
    assert (resumed.waited, trainer.ended) == (1, [])
    trainer.evaluate(resumed, 6, 4.5)
    assert trainer.ended == [6]


def test_without_evaluations_it_is_refused(cfg):
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 3  # TEST.EVAL_PERIOD is 0
    with pytest.raises(ValueError, match=r"PATIENCE is 3, but there are no evaluations"):
        Trainer(cfg)


class Stop(Exception):
    pass


class StopAt(HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == 2:
            raise Stop


@pytest.mark.slow
def test_a_run_ends_early_whole_and_also_after_an_interruption(cfg, tmp_path, monkeypatch, caplog):
    cfg.SOLVER.EARLY_STOPPING.PATIENCE, cfg.SOLVER.KEEP_LAST = 2, 1
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER = 1, 2, 100
    by_iteration = {1: 50.0, 2: 60.0, 3: 40.0, 4: 41.0}
    asked = []

    class Faked(Trainer):
        def test(self, cfg, model, evaluators=None):
            asked.append(self.iter + 1)
            return {"bbox": {"AP": by_iteration[self.iter + 1], "AP50": 70.0}}

    def start(folder: Path, *, resume: bool) -> Trainer:
        own = cfg.clone()
        own.OUTPUT_DIR = str(folder)
        os.makedirs(folder, exist_ok=True)
        torch.manual_seed(0)
        trainer = Faked(own)
        trainer.resume_or_load(resume=resume)
        return trainer

    def check(folder: Path) -> dict:
        assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
        # The best one was the second; no other checkpoint is left.
        names = sorted(path.name for path in folder.glob("*.pth"))
        assert names == ["model_0000003.pth", "model_best.pth", "model_final.pth"]
        final = torch.load(folder / "model_final.pth", weights_only=True)
        assert sorted(final) == ["iteration", "model"] and final["iteration"] == 3
        best = torch.load(folder / "model_best.pth", weights_only=True)
        assert sorted(best) == [FITNESS, "iteration", "model"] and best["iteration"] == 1
        rows = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
        assert max(row["iteration"] for row in rows if "bbox/AP" in row) == 3
        return torch.load(folder / "model_0000003.pth", weights_only=True)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer = start(whole, resume=False)
    with caplog.at_level(logging.INFO, "yolor_d2"):
        trainer.train()
    assert trainer.completed and asked == [1, 2, 3, 4]  # none is repeated at the end
    assert "has not risen since iteration 2 (61.000 %)" in caplog.text
    expected = check(whole)

    trainer = start(broken, resume=False)
    trainer.register_hooks([StopAt()])
    with pytest.raises(Stop):
        trainer.train()
    start(broken, resume=True).train()
    found = check(broken)
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value), name

    # It stays ended, until it is given more patience.
    caplog.clear()
    (broken / "model_final.pth").unlink()
    with caplog.at_level(logging.INFO, "yolor_d2"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Faked, "build_writers", lambda self: [])  # nothing to close
        assert start(broken, resume=True).train() is None
    assert "Early stopping after 4 iterations" in caplog.text
    assert "nothing is left to do" in caplog.text
    assert (broken / "model_final.pth").is_file()  # mended
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 3
    by_iteration[5] = 39.0
    trainer = start(broken, resume=True)
    trainer.train()
    assert trainer.max_iter == 5
    # The second stage of a training takes the state that lies beside the final weights.
    cfg.SOLVER.CONTINUE_FROM = str(broken / "model_final.pth")
    monkeypatch.setattr(Faked, "build_writers", lambda self: [])
    assert start(tmp_path / "second", resume=False).start_iter == 5
