"""Signals: the iteration is finished, saved, and the process ends with a code that tells."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from processes import Process

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.d2.engine import HookBase
from yolor_d2.engine import Trainer
from yolor_d2.engine.distributed import interrupt as interrupt_module
from yolor_d2.engine.distributed.interrupt import Interrupted, InterruptHook

REPOSITORY = Path(__file__).parents[2]


class SignalAt(HookBase):
    """Sends a signal to this process inside an iteration."""

    def __init__(self, iteration: int, number: int):
        self.iteration, self.number = iteration, number

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def start(cfg, *, resume: bool = False) -> Trainer:
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def interrupt(trainer: Trainer, iteration: int, number: int = signal.SIGTERM) -> Interrupted:
    trainer.register_hooks([SignalAt(iteration, number)])
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_the_iteration_is_finished_and_saved(cfg, number, code, caplog, monkeypatch):
    cfg.DATASETS.TEST = ()
    before = signal.getsignal(number)
    ended = interrupt(start(cfg), 1, number)
    assert ended.code == code
    assert signal.getsignal(number) is before
    saved = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000001.pth", weights_only=True)
    assert saved["iteration"] == saved["trainer"]["iteration"] == 1
    assert ended.signal.name in caplog.text and "model_0000001.pth" in caplog.text
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])  # nothing to close
    assert start(cfg, resume=True).start_iter == 2


@pytest.mark.slow
def test_a_checkpoint_of_that_iteration_is_not_written_twice(cfg):
    cfg.DATASETS.TEST = ()  # checkpoints are due after iterations 2 and 5
    trainer = start(cfg)
    names = []
    save = trainer.checkpointer.save
    trainer.checkpointer.save = lambda name, **kwargs: (names.append(name), save(name, **kwargs))
    interrupt(trainer, 2)
    assert names == ["model_0000002"]


@pytest.mark.slow
def test_an_evaluation_is_given_up_and_made_up_for(cfg, monkeypatch):
    """The evaluation after iteration 3 gets the signal; the resumed run begins with it."""
    cfg.TEST.EVAL_PERIOD = 4
    trainer = start(cfg)
    test = Trainer.test

    def signalled(cfg, model):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    monkeypatch.setattr(Trainer, "test", staticmethod(signalled))
    with pytest.raises(Interrupted):
        trainer.train()
    raw = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000003.pth", weights_only=True)
    raw = raw["trainer"]["hooks"]["EMAHook"]["raw"]
    # The raw weights are back in the model.
    assert all(value.equal(raw[name]) for name, value in trainer.model.state_dict().items())

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    resumed = start(cfg, resume=True)
    resumed.train()
    iterations = [iteration for _, iteration in resumed.storage.history("bbox/AP").values()]
    assert iterations == [3, 6]  # that of the end is noted behind the last iteration
    best = torch.load(Path(cfg.OUTPUT_DIR) / "model_best.pth", weights_only=True)
    assert best["iteration"] in (3, 5)  # that of the end is the last iteration's


def test_a_failure_in_the_last_iteration_evaluates_nothing(cfg, monkeypatch):
    cfg.SOLVER.MAX_ITER = 1
    trainer = start(cfg)
    monkeypatch.setattr(Trainer, "test", None)  # not called

    def fail(batch):
        raise OSError("the disk is gone")

    monkeypatch.setattr(trainer._trainer, "backward", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.train()
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_whole_group_of_processes(cfg, number):
    """As Ctrl-C and schedulers send it: the loader's workers get it too."""
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 100000, 100000
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    (folder / "given.yaml").write_text(cfg.dump(), encoding="utf-8")
    log = folder / "output.txt"
    command = [REPOSITORY / "tools" / "train_net.py", "--config-file", "given.yaml"]
    process = Process(command, log, cwd=folder)  # in a group of its own
    try:
        figures = folder / "metrics.json"
        while not (figures.exists() and figures.stat().st_size):  # after 20 iterations
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, number)
        process.wait(timeout=60)
    finally:
        process.kill()
    output = log.read_text()
    assert process.returncode == 128 + number, output
    (checkpoint,) = folder.glob("model_*.pth")
    assert f"--resume continues from {checkpoint}" in output
    assert "Traceback" not in output
    assert torch.load(checkpoint, weights_only=True)["iteration"] >= 19


def test_signals_that_a_launcher_passes_on_count_once(monkeypatch):
    """A scheduler signals all processes, and the launcher those that it has started."""
    monkeypatch.setattr(interrupt_module, "_repeated", True)
    outside = signal.getsignal(signal.SIGINT)  # which workers of pytest-xdist ignore
    before = signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    hook = InterruptHook()
    hook.before_train()
    try:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert hook.received == signal.SIGTERM
        # Somebody insists.
        hook.received_at -= interrupt_module.REPETITION_TIME
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        hook.restore()
        signal.signal(signal.SIGINT, outside)
