"""Training as a whole: what is saved, and that an interruption leaves no trace."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.checkpoint.conversion.parts import parts_of, to_meta_arch
from yolor_d2.d2.checkpoint import DetectionCheckpointer
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.engine import HookBase
from yolor_d2.d2.utils import EventStorage
from yolor_d2.engine import Trainer
from yolor_d2.engine.ema import EMAHook
from yolor_d2.engine.hooks import FITNESS, BestCheckpointer, fitness

pytestmark = pytest.mark.both_runtimes


class Stop(Exception):
    """What ends a run early in these tests."""


class StopAt(HookBase):
    def __init__(self, iteration: int):
        self.iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            raise Stop


def train(cfg: CfgNode, *, resume: bool = False, stop_at: int | None = None) -> Trainer:
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if stop_at is None:
        trainer.train()
    else:
        trainer.register_hooks([StopAt(stop_at)])
        with pytest.raises(Stop):
            trainer.train()
    return trainer


def load(cfg: CfgNode, name: str | None = None) -> dict:
    """A file of a run; without a name its last checkpoint."""
    folder = Path(cfg.OUTPUT_DIR)
    file = f"{name}.pth" if name else (folder / "last_checkpoint").read_text()
    return torch.load(folder / file, weights_only=True)


def assert_same(left: object, right: object, where: str = "") -> None:
    """Bit for bit, through nested dicts and lists."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right)):
            assert_same(*pair, f"{where}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


@pytest.fixture
def quiet(cfg) -> CfgNode:
    """Without evaluation, which these tests do not need."""
    cfg.DATASETS.TEST = ()
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_undisturbed_run(quiet, tmp_path, workers):
    quiet.DATALOADER.NUM_WORKERS = workers
    train(quiet)
    interrupted = quiet.clone()
    interrupted.OUTPUT_DIR = str(tmp_path / "interrupted")
    # Stopped one iteration after the checkpoint of iteration 2, whose work is lost and done again.
    train(interrupted, stop_at=3)
    trainer = train(interrupted, resume=True)

    assert trainer.start_iter == 3
    assert_same(load(quiet), load(interrupted))


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(quiet, tmp_path):
    states = []
    for number, seed in enumerate((0, 0, 1)):
        cfg = quiet.clone()
        cfg.SEED = seed
        cfg.OUTPUT_DIR = str(tmp_path / str(number))
        train(cfg)
        states.append(load(cfg))

    assert_same(states[0], states[1])
    name = "head.predict.0.weight"
    assert not torch.equal(states[0]["model"][name], states[2]["model"][name])


@pytest.mark.slow
def test_checkpoint_holds_average_as_model_and_raw_weights_beside_it(quiet):
    trainer = train(quiet)
    saved = load(quiet)
    hooks = saved["trainer"]["hooks"]

    assert saved["iteration"] == saved["trainer"]["iteration"] == 5
    assert hooks["EMAHook"]["updates"] == 6
    raw = hooks["EMAHook"]["raw"]
    assert_same(dict(trainer.model.state_dict()), raw)
    ema = next(hook for hook in trainer._hooks if isinstance(hook, EMAHook))
    assert_same(dict(saved["model"]), ema.average)
    assert not torch.equal(saved["model"]["head.predict.0.bias"], raw["head.predict.0.bias"])
    # Detectron2's own checkpointer gets the average.
    model = Trainer.build_model(quiet)
    DetectionCheckpointer(model).load(os.path.join(quiet.OUTPUT_DIR, "model_final.pth"))
    assert_same(dict(model.state_dict()), ema.average)


@pytest.mark.slow
def test_without_average_the_model_itself_is_saved(quiet):
    quiet.SOLVER.EMA.ENABLED = False
    trainer = train(quiet)

    assert_same(dict(load(quiet)["model"]), dict(trainer.model.state_dict()))


@pytest.mark.slow
def test_evaluates_the_average_and_keeps_the_best(cfg):
    cfg.TEST.EVAL_PERIOD = 3
    trainer = train(cfg)
    best = load(cfg, "model_best")

    assert best["iteration"] in (2, 5)
    assert math.isfinite(best[FITNESS])
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000005.pth"
    # The model carries its raw weights again after an evaluation.
    assert_same(dict(trainer.model.state_dict()), load(cfg)["trainer"]["hooks"]["EMAHook"]["raw"])


def test_fitness_by_hand():
    assert fitness({"bbox": {"AP": 50.0, "AP50": 70.0}}) == pytest.approx(52.0)
    several = {"a": {"bbox": {"AP": 10.0, "AP50": 20.0}}, "b": {"bbox": {"AP": 0.0, "AP50": 0.0}}}
    assert fitness(several) == pytest.approx(11.0)
    assert fitness({"without truth": {}, **several}) == pytest.approx(11.0)
    assert fitness({}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"), ("INPUT.CROP.ENABLED", True)],
)
def test_a_setting_without_effect_is_refused(cfg, key, value):
    cfg.merge_from_list([key, value])

    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        Trainer(cfg)


@pytest.mark.heavy
def test_compiling_keeps_the_names_of_tensors(cfg, monkeypatch):
    """Compiling itself takes minutes on the CPU."""
    names = list(Trainer.build_model(cfg).state_dict())
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    cfg.MODEL.COMPILE = True
    model = Trainer.build_model(cfg)
    assert compiled == [model.backbone, model.head]
    assert "compute_losses" in vars(model)  # assignment and losses too
    assert list(model.state_dict()) == names


def test_images_cannot_be_weighed_without_an_evaluation(cfg):
    cfg.DATALOADER.IMAGE_WEIGHTS = True
    cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"IMAGE_WEIGHTS is True, but DATASETS\.TEST"):
        Trainer(cfg)


def test_hooks_order(cfg, monkeypatch):
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])
    trainer = Trainer(cfg)

    assert [type(hook).__name__ for hook in trainer._hooks] == [
        "IterationTimer",
        "RandomStateHook",
        "FingerprintHook",
        "EMAHook",
        "LRScheduler",
        "CheckpointHook",
        "InterruptHook",
        "EvalHook",
        "BestCheckpointer",
        "PeriodicWriter",
    ]


@pytest.mark.heavy
def test_pictures_of_implicit_knowledge_go_to_tensorboard(cfg, monkeypatch):
    cfg.VIS_PERIOD, cfg.DATASETS.TEST = 2, ()
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])
    trainer = Trainer(cfg)
    pictures = []
    with EventStorage(0) as storage:
        trainer.storage = storage
        monkeypatch.setattr(storage, "put_image", lambda name, image: pictures.append(name))
        (hook,) = [h for h in trainer._hooks if type(h).__name__ == "ImplicitPictureHook"]
        for trainer.iter in range(3):
            trainer.max_iter = 3
            hook.after_step()
    # After iterations 2 and 3, the last.
    assert pictures == ["implicit/backbone.neck.align", "implicit/head.refine"] * 2


def test_best_value_survives_an_interruption(cfg, tmp_path):
    checkpointer = YOLORCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    checkpointer.save_weights("model_best", iteration=7, **{FITNESS: 12.5})

    class Resumed:
        start_iter = 8
        storage = EventStorage(8)

    hook = BestCheckpointer(1, checkpointer)
    hook.trainer = Resumed()
    hook.before_train()

    assert hook.best == 12.5
    assert not (tmp_path / "last_checkpoint").exists()  # a run never resumes from the best


class TestLoading:
    """Weights from elsewhere, and weights that do not fit."""

    @pytest.mark.heavy
    def test_training_starts_from_a_file_of_the_authors(self, cfg, tmp_path):
        source = Trainer.build_model(cfg)
        names = parts_of(source).names("yaml")
        state = {
            theirs: source.state_dict()[ours]
            for (_, theirs), ours in zip(names.items(), to_meta_arch(names))
        }
        torch.save({"epoch": -1, "model": state}, tmp_path / "authors.pt")
        cfg.MODEL.WEIGHTS = str(tmp_path / "authors.pt")
        torch.manual_seed(99)  # another start than that of the source
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        assert_same(dict(trainer.model.state_dict()), dict(source.state_dict()))
        trainer.train()
        assert load(cfg)["iteration"] == cfg.SOLVER.MAX_ITER - 1

    @pytest.fixture
    def saved(self, cfg) -> str:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        YOLORCheckpointer(Trainer.build_model(cfg), cfg.OUTPUT_DIR).save("start")
        return os.path.join(cfg.OUTPUT_DIR, "start.pth")

    def test_missing_file(self, cfg):
        checkpointer = YOLORCheckpointer(Trainer.build_model(cfg))

        with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
            checkpointer.load("nowhere.pth")

    def test_other_number_of_classes_keeps_all_but_the_class_rows(self, cfg, saved):
        cfg.MODEL.YOLOR.NUM_CLASSES = 2
        model = Trainer.build_model(cfg)
        YOLORCheckpointer(model).load(saved)

        stored, state = torch.load(saved, weights_only=True)["model"], model.state_dict()
        name = "backbone.bottom_up.body.stages.0.1.entry.conv.weight"
        assert torch.equal(state[name], stored[name])
        # Of each of 3 anchors, 5 numbers for box and objectness and one for each class.
        name = "head.predict.0.weight"
        kept, given = state[name].unflatten(0, (3, 7)), stored[name].unflatten(0, (3, 9))
        assert torch.equal(kept[:, :5], given[:, :5])

    def test_other_number_of_classes_is_refused_when_strict(self, cfg, saved):
        cfg.MODEL.YOLOR.NUM_CLASSES = 2
        checkpointer = YOLORCheckpointer(Trainer.build_model(cfg), strict=True)

        with pytest.raises(
            ValueError, match=r"start\.pth.*for 4 classes, MODEL\.YOLOR\.NUM_CLASSES is 2"
        ):
            checkpointer.load(saved)

    @pytest.mark.heavy
    def test_other_network_is_refused(self, cfg, saved):
        cfg.MODEL.YOLOR.FORM = "D"
        checkpointer = YOLORCheckpointer(Trainer.build_model(cfg))

        with pytest.raises(ValueError, match=r"start\.pth.*missing.*unused"):
            checkpointer.load(saved)
