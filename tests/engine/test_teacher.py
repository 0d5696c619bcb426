"""MODEL.YOLOR.TEACHER: what is built of it, what is kept in the run's folder, how a run goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from processes import Process

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import get_yolor_cfg, list_keys, load_config, read_config, save_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.engine import Trainer
from yolor_d2.engine.teacher import NETWORK_KEYS, add_teacher, settle_teacher, teacher_config
from yolor_d2.modeling.teacher import TaughtModel
from yolor_d2.runs import remove_run, require_outside

REPOSITORY = Path(__file__).parents[2]
# Keys below MODEL.YOLOR, or parts of them, in which teacher and student are alike.
SHARED = {
    *("NUM_CLASSES", "PARTIAL_WEIGHTS", "CLASS_NAMES", "NORM_MOMENTUM", "TASKS", "LOSS", "TEACHER"),
    *("ASSIGN", "ASSIGN_MAX_RATIO", "SCORE_THRESHOLD", "NMS_THRESHOLD", "CLASS_AGNOSTIC_NMS"),
    *("MULTI_LABEL", "CLASS_SCORE_THRESHOLDS", "PADDING"),
}


@pytest.fixture
def taught(cfg) -> CfgNode:
    """yolov7_tiny is taught by yolor_ssss_s2d, each at a quarter of its width."""
    node = cfg.MODEL.YOLOR
    node.VARIANT, node.WIDTH_FACTOR = "yolov7_tiny", 0.25
    path = Path(cfg.OUTPUT_DIR).parent / "small.yaml"
    path.write_text('_BASE_: "yolor_ssss_s2d.yaml"\nMODEL: {YOLOR: {WIDTH_FACTOR: 0.25}}\n')
    node.TEACHER.CONFIG = str(path)
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 1
    return cfg


def train(cfg: CfgNode, *, resume: bool = False) -> Trainer:
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def load(folder: str | Path, name: str) -> dict:
    return torch.load(Path(folder) / name, weights_only=True)


def test_every_key_of_a_network_is_the_teachers_and_every_other_the_runs():
    """A key that is new must be put on one side."""
    prefix = "MODEL.YOLOR."
    names = {
        x.removeprefix(prefix).split(".")[0] for x in list_keys(get_yolor_cfg()) if prefix in x
    }
    assert names == {*NETWORK_KEYS, *SHARED} - ({"ASSIGN", "ASSIGN_MAX_RATIO"} - names)
    assert not SHARED & set(NETWORK_KEYS)


def test_the_configuration_of_the_teacher(tmp_path):
    options = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", 3, "INPUT.MAX_SIZE_TEST", 320]
    options += ["MODEL.YOLOR.LOSS.BOX", 0.1, "MODEL.YOLOR.LOSS.BALANCE", [1.0, 1.0, 1.0, 1.0]]
    options += ["SOLVER.FREEZE", ["backbone"], "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config("yolor_p6d.yaml", options)
    own, given = teacher_config(cfg), read_config("yolor_d6.yaml")
    assert own.MODEL.YOLOR.VARIANT == "yolor_d6" and cfg.MODEL.YOLOR.VARIANT == "yolor_p6"
    assert own.MODEL.BACKBONE == given.MODEL.BACKBONE
    assert own.MODEL.YOLOR.NUM_CLASSES == 3 and own.INPUT == cfg.INPUT
    assert own.MODEL.YOLOR.LOSS.BOX == 0.1 and own.MODEL.YOLOR.LOSS.BALANCE == []
    assert own.MODEL.YOLOR.TEACHER.CONFIG == "" and own.SOLVER.FREEZE == []
    assert str(tmp_path / "teacher") == own.OUTPUT_DIR
    # It is a configuration, and one of the same teacher.
    save_config(own, tmp_path / "teacher.yaml")
    cfg.MODEL.YOLOR.TEACHER.CONFIG = str(tmp_path / "teacher.yaml")
    again = teacher_config(cfg)
    assert again.MODEL.YOLOR == own.MODEL.YOLOR and again.MODEL.BACKBONE == own.MODEL.BACKBONE
    assert again.OUTPUT_DIR == own.OUTPUT_DIR
    cfg.MODEL.YOLOR.TEACHER.CONFIG = ""
    assert teacher_config(cfg) is None


def test_what_can_be_no_teacher_is_refused(taught, tmp_path):
    node = taught.MODEL.YOLOR.TEACHER
    node.WEIGHTS = str(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"^MODEL\.YOLOR\.TEACHER\.WEIGHTS: .*none\.pth"):
        Trainer(taught)
    node.CONFIG = ""
    with pytest.raises(
        ValueError, match=r"TEACHER\.WEIGHTS is .*none\.pth', but .*CONFIG is empty"
    ):
        teacher_config(taught)
    node.CONFIG, node.WEIGHTS = "yolor_p66.yaml", ""
    with pytest.raises(FileNotFoundError, match=r"TEACHER\.CONFIG: .*did you mean 'yolor_p6.yaml'"):
        teacher_config(taught)
    other = tmp_path / "other.yaml"
    node.CONFIG = str(other)
    other.write_text("MODEL: {YOLOR: {VARIANTE: yolor_p6}}")
    with pytest.raises(KeyError, match=r"TEACHER\.CONFIG: .*VARIANTE"):
        settle_teacher(taught, resume=False)
    other.write_text("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}")
    with pytest.raises((KeyError, ValueError), match=r"TEACHER\.CONFIG: .*GeneralizedRCNN"):
        teacher_config(taught)
    node.CONFIG, node.BOX = "yolov7_tiny.yaml", -1.0
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.TEACHER\.BOX is -1.0"):
        settle_teacher(taught, resume=False)
    node.BOX = 1.0
    with pytest.raises(ValueError, match=r"META_ARCHITECTURE .*cannot be taught"):
        add_teacher(taught, torch.nn.Linear(1, 1), Trainer.build_model)


def weights_of(cfg: CfgNode, path: Path, **changes: object) -> dict:
    """Random weights of the teacher of a run."""
    own = teacher_config(cfg)
    for key, value in changes.items():
        own.MODEL.YOLOR[key] = value
    torch.manual_seed(3)
    state = Trainer.build_model(own).state_dict()
    torch.save({"model": state}, path)
    return state


@pytest.mark.heavy
def test_weights_that_do_not_fit_are_refused(taught, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "yolor_d2.checkpoint.conversion.report.advise", lambda *_: ""
    )  # takes seconds
    path = tmp_path / "teacher.pth"
    taught.MODEL.YOLOR.TEACHER.WEIGHTS = str(path)
    start = rf"^MODEL\.YOLOR\.TEACHER\.WEIGHTS: .*{path.name}.*"
    weights_of(taught, path, NUM_CLASSES=2)
    with pytest.raises(ValueError, match=start + r"2 classes, MODEL\.YOLOR\.NUM_CLASSES is 4"):
        Trainer(taught)
    weights_of(taught, path, WIDTH_FACTOR=0.5)
    with pytest.raises(ValueError, match=start):
        Trainer(taught)


@pytest.mark.heavy
def test_a_frozen_teacher_is_in_no_checkpoint(taught, tmp_path, caplog):
    path = tmp_path / "teacher.pth"
    state = weights_of(taught, path)
    taught.MODEL.YOLOR.TEACHER.WEIGHTS = str(path)
    taught.SOLVER.AMP.ENABLED, taught.SOLVER.AMP.DTYPE = True, "bfloat16"
    trainer = train(taught)
    assert isinstance(trainer.model, TaughtModel)
    assert trainer.student is trainer.model.student
    saved = load(taught.OUTPUT_DIR, "model_0000001.pth")
    assert saved.keys() == {"model", "trainer", "iteration"}
    assert saved["model"].keys() == trainer.student.state_dict().keys()
    assert saved["trainer"]["hooks"]["EMAHook"]["raw"].keys() == saved["model"].keys()
    count = len(list(trainer.student.parameters()))
    groups = saved["trainer"]["_trainer"]["optimizer"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == count
    assert not list(Path(taught.OUTPUT_DIR).glob("teacher*"))
    # Its weights are those of the file, folded.
    own = Trainer.build_model(teacher_config(taught))
    own.load_state_dict(state)
    own.eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        levels = [model.run_network(pixels)[1] for model in (own, trainer.model.teacher)]
    torch.testing.assert_close(*levels, rtol=1e-3, atol=1e-4)
    names = trainer.storage.latest().keys()
    assert {"loss_box", "loss_distill_box", "loss_distill_classes"} <= names
    assert not any(name.startswith("loss_teacher") for name in names)


@pytest.mark.heavy
def test_a_joint_teacher_is_saved_beside_the_student(taught):
    taught.SOLVER.EMA.RAMP = 2
    taught.SOLVER.FREEZE = ["backbone.bottom_up.body.stages.0"]  # of the student alone
    trainer = train(taught)
    teacher, student = trainer.model.teacher, trainer.student
    assert all(p.requires_grad for p in teacher.parameters())
    saved = load(taught.OUTPUT_DIR, "model_0000001.pth")
    assert saved["model"].keys() == student.state_dict().keys()
    raw = saved["trainer"]["hooks"]["TeacherEMAHook"]["raw"]
    final = load(taught.OUTPUT_DIR, "teacher_final.pth")
    assert final.keys() == {"model", "iteration"} and final["iteration"] == 1
    changed = 0
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, raw[name])
        assert torch.equal(saved["teacher"][name], final["model"][name])
        changed += not torch.equal(value, saved["teacher"][name])
    assert changed > 10  # the average is another
    groups = saved["trainer"]["_trainer"]["optimizer"]["param_groups"]
    members = [p for model in (student, teacher) for p in model.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(members)
    # Of use by itself.
    YOLORCheckpointer(Trainer.build_model(teacher_config(taught)), strict=True).load(
        str(Path(taught.OUTPUT_DIR) / "teacher_final.pth")
    )


def test_the_student_begins_as_it_does_without_a_teacher(taught, monkeypatch):
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])  # nothing to close
    os.makedirs(taught.OUTPUT_DIR)
    torch.manual_seed(0)
    with_teacher = Trainer(taught).student.state_dict()
    taught.MODEL.YOLOR.TEACHER.CONFIG = ""
    torch.manual_seed(0)
    alone = Trainer(taught)
    assert alone.model is alone.student
    for name, value in alone.student.state_dict().items():
        assert torch.equal(value, with_teacher[name])


@pytest.mark.heavy
def test_a_run_goes_on_with_a_teacher_as_it_began(taught, monkeypatch):
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])  # nothing to close
    config = taught.MODEL.YOLOR.TEACHER.CONFIG
    train(taught)
    taught.MODEL.YOLOR.TEACHER.CONFIG = ""
    with pytest.raises(ValueError, match=r"has a teacher that is trained along, but .* for none"):
        Trainer(taught).resume_or_load(resume=True)
    # Its weights alone are of use to anybody.
    taught.MODEL.WEIGHTS = str(Path(taught.OUTPUT_DIR) / "model_0000001.pth")
    Trainer(taught).resume_or_load(resume=False)

    other = taught.clone()
    other.OUTPUT_DIR = f"{taught.OUTPUT_DIR}_alone"
    other.MODEL.WEIGHTS = ""
    train(other)
    other.MODEL.YOLOR.TEACHER.CONFIG = config
    with pytest.raises(ValueError, match=r"has no teacher that is trained along, but .* for one"):
        Trainer(other).resume_or_load(resume=True)


def test_the_files_of_a_teacher_are_the_runs(taught, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    kept = folder / "teacher.yaml"
    save_config(teacher_config(taught), kept)
    given = taught.MODEL.YOLOR.TEACHER.CONFIG
    Path(given).unlink()
    with pytest.raises(FileNotFoundError, match=r"TEACHER\.CONFIG"):
        settle_teacher(taught, resume=True)  # there is no run yet
    for name in ("model_0000001.pth", "teacher_final.pth", "teacher_notes.txt"):
        (folder / name).touch()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    notes = settle_teacher(taught, resume=True)
    assert str(kept) == taught.MODEL.YOLOR.TEACHER.CONFIG
    assert str(kept) in notes[0] and given in notes[0] and "trained along" in notes[1]
    assert len(settle_teacher(taught, resume=True)) == 1
    for name in ("teacher.yaml", "teacher_final.pth"):
        with pytest.raises(ValueError, match=rf"would delete KEY .*{name}"):
            require_outside("KEY", str(folder / name), folder)
    assert {"teacher.yaml", "teacher_final.pth"} <= set(remove_run(folder))
    assert [path.name for path in folder.iterdir()] == ["teacher_notes.txt"]


def command(*arguments: object, log: Path) -> Process:
    return Process([REPOSITORY / "tools" / "train_net.py", *arguments], log)


@pytest.mark.slow
def test_a_joint_run_that_is_killed_and_resumed_ends_bit_equal(taught, tmp_path):
    """By the command, and the configuration of the teacher is gone when the run goes on."""
    taught.SOLVER.MAX_ITER, taught.SOLVER.CHECKPOINT_PERIOD = 8, 1
    taught.SOLVER.NOMINAL_BATCH, taught.SOLVER.EMA.RAMP = 4, 2
    validation = taught.DATASETS.REGISTER[1][0]
    config, log = tmp_path / "given.yaml", tmp_path / "output.txt"
    config.write_text(taught.dump())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = command("--config-file", config, "OUTPUT_DIR", whole, log=log)
    assert process.wait() == 0, log.read_text()[-4000:]

    process = command("--config-file", config, "OUTPUT_DIR", killed, log=log)
    while process.poll() is None and not (killed / "model_0000002.pth").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9, log.read_text()[-4000:]
    assert not (killed / "model_final.pth").is_file()
    Path(taught.MODEL.YOLOR.TEACHER.CONFIG).rename(tmp_path / "moved.yaml")
    process = command("--config-file", killed / "config.yaml", "--resume", log=log)
    assert process.wait() == 0, log.read_text()[-4000:]

    left, right = (load(folder, "model_0000007.pth") for folder in (whole, killed))
    hooks = [x["trainer"]["hooks"] for x in (left, right)]
    optimizers = [x["trainer"]["_trainer"]["optimizer"]["state"] for x in (left, right)]
    pairs = [(left[key], right[key]) for key in ("model", "teacher")]
    pairs += [(hooks[0][x]["raw"], hooks[1][x]["raw"]) for x in ("EMAHook", "TeacherEMAHook")]
    pairs += [(a, optimizers[1][i]) for i, a in optimizers[0].items()]
    for one, other in pairs:
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    final = load(killed, "teacher_final.pth")["model"]
    assert all(torch.equal(value, left["teacher"][name]) for name, value in final.items())

    # What is kept of the teacher is evaluated beside the run, whose configuration stays.
    before = (killed / "config.yaml").read_bytes()
    process = command(
        *("--config-file", killed / "teacher.yaml", "--eval-only"),
        *("MODEL.WEIGHTS", killed / "teacher_final.pth", "DATASETS.TEST", f"('{validation}',)"),
        log=log,
    )
    assert process.wait() == 0, log.read_text()[-4000:]
    assert (killed / "teacher" / "inference").is_dir()
    assert (killed / "config.yaml").read_bytes() == before
