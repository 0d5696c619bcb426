"""A run's folder is where its config.yaml lies, and no other training gets into it unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2 import model_zoo
from yolor_d2.arguments import train_net as arguments
from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.commands import train_net as command
from yolor_d2.config import load_config
from yolor_d2.engine.distributed.lock import locked
from yolor_d2.runs import find_training, remove_run, run_of_config

QUICK = model_zoo.get_config_file("quick/ssss_320_cpu.yaml")


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run that has been moved: its configuration names another, relative one."""
    folder = tmp_path / "elsewhere" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_config(QUICK, ["OUTPUT_DIR", "output/mine"]).dump())
    (folder / "last_checkpoint").write_text("model_0000004.pth")
    for name in ("model_0000004.pth", "model_best.pth", "log.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def settings(*argv: object) -> tuple[str, list[str]]:
    """OUTPUT_DIR of a command, and what is said of it."""
    notes: list[str] = []
    args = arguments.parse_args([*map(str, argv)])
    arguments.check_inputs(args)
    return command.read_settings(args, notes).OUTPUT_DIR, notes


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class TestWhichFolder:
    def test_that_of_the_configuration_from_anywhere(self, run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder, notes = settings("--config-file", run / "config.yaml", "--resume")
        assert folder == str(run)
        assert "output/mine" in notes[0] and str(run) in notes[0]
        folder, notes = settings("--config-file", "elsewhere/mine/config.yaml", "--eval-only")
        assert Path(folder).resolve() == run

    def test_nothing_is_said_where_the_file_says_the_same(self, run, monkeypatch):
        monkeypatch.chdir(run.parent)
        os.makedirs("output")
        run.rename("output/mine")
        folder, notes = settings("--config-file", "output/mine/config.yaml", "--resume")
        assert Path(folder).resolve() == Path("output/mine").resolve() and notes == []

    def test_that_of_the_command_line_wins_and_is_said(self, run, tmp_path):
        other = tmp_path / "other"
        config = ["--config-file", run / "config.yaml"]
        folder, notes = settings(*config, "--resume", "OUTPUT_DIR", other)
        assert folder == str(other)
        assert str(other) in notes[0] and str(run) in notes[0]

    @pytest.mark.parametrize("name", ["config.yaml", "mine.yaml"])
    def test_a_configuration_of_the_user_says_it_itself(self, tmp_path, name):
        (tmp_path / name).write_text(f"_BASE_: {QUICK}\nOUTPUT_DIR: output/x\n")
        (tmp_path / "notes.txt").write_text("")
        assert run_of_config(tmp_path / name) is None
        assert settings("--config-file", tmp_path / name)[0] == "output/x"

    def test_a_run_that_has_only_begun_is_one(self, run):
        for name in ("last_checkpoint", "model_0000004.pth", "model_best.pth"):
            (run / name).unlink()
        assert run_of_config(run / "config.yaml") == run


class TestAnotherRun:
    def test_is_refused_before_anything_is_written(self, run, toy):
        before = listing(run)
        data = ["--train", toy.train_json, toy.train_images]
        with pytest.raises(FileExistsError) as caught:
            settings("--config-file", QUICK, *data, "OUTPUT_DIR", run)
        for word in (str(run), "last_checkpoint", "--resume", "--overwrite"):
            assert word in str(caught.value)
        assert listing(run) == before
        with pytest.raises(FileExistsError):  # its own configuration does not change that
            settings("--config-file", run / "config.yaml")

    def test_that_is_alive_is_left_to_the_lock(self, run):
        with locked(str(run)):  # which tells who it is
            assert settings("--config-file", QUICK, "OUTPUT_DIR", run)[0] == str(run)
        with pytest.raises(FileExistsError):
            settings("--config-file", QUICK, "OUTPUT_DIR", run)

    @pytest.mark.parametrize("option", ["--resume", "--overwrite", "--eval-only"])
    def test_is_let_be_where_that_is_meant(self, run, option):
        assert settings("--config-file", QUICK, option, "OUTPUT_DIR", run)[0] == str(run)

    @pytest.mark.parametrize(
        ("name", "content", "found"),
        [
            ("model_0000004.pth", b"", True),
            ("model_final.pth", b"", True),
            ("metrics.json", b"{}", True),
            ("metrics.json", b"", False),  # no iteration was finished
            ("model_mine.pth", b"", False),
            ("log.txt", b"x", False),
            ("report.html", b"x", False),  # an evaluation
        ],
    )
    def test_what_counts_as_a_training(self, tmp_path, name, content, found):
        (tmp_path / name).write_bytes(content)
        assert (find_training(tmp_path) is not None) == found

    def test_both_options_contradict_each_other(self):
        with pytest.raises(SystemExit):
            arguments.parse_args(["--resume", "--overwrite"])

    def test_an_evaluation_overwrites_nothing(self):
        args = arguments.parse_args(["--config-file", QUICK, "--eval-only", "--overwrite"])
        with pytest.raises(ValueError, match="--overwrite"):
            arguments.check_inputs(args)


def test_resuming_nothing_is_said_and_starts_anew(cfg, tmp_path, monkeypatch, caplog):
    """Jobs that are started again and again have --resume from the first time on."""
    started = []

    class Faked:
        def __init__(self, cfg):
            self.checkpointer = YOLORCheckpointer(torch.nn.Linear(1, 1), cfg.OUTPUT_DIR)

        def resume_or_load(self, resume: bool) -> None:
            started.append(resume)

        def train(self) -> None:
            pass

    monkeypatch.setattr(command, "Trainer", Faked)
    for options, warns in [(["--resume"], True), ([], False)]:
        caplog.clear()
        command.train_or_evaluate(cfg, arguments.parse_args(["--config-file", QUICK, *options]))
        assert ("no checkpoint to resume from" in caplog.text) == warns
        assert (cfg.OUTPUT_DIR in caplog.text) == warns
    assert started == [True, False]


class TestOverwriting:
    def test_deletes_what_a_run_writes_and_nothing_else(self, run):
        mine = ["notes.txt", "model_mine.pth", "report_june.html", "annotations/a", "inference.txt"]
        for name in mine:
            path = run / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        (run / "report_june.json").write_text(json.dumps({"sales": 3}))
        (run / "report_val.json").write_text(json.dumps({"format": "yolor_d2 report 1"}))
        for name in ("metrics.json", "model_final.pth", "report_val.html", "log.txt.rank1"):
            (run / name).write_text("x")
        (run / "events.out.tfevents.1.vm.2.0").write_text("x")
        (run / "inference").mkdir()
        (run / "inference" / "record.json").write_text("x")
        remove_run(run)
        kept = ["annotations", "config.yaml", "report_june.json", *mine]
        assert listing(run) == sorted(kept)

    def test_keeps_the_weights_that_the_new_run_starts_from(self, run):
        cfg = load_config(QUICK, ["OUTPUT_DIR", str(run)])
        cfg.MODEL.WEIGHTS = str(run / "model_best.pth")
        before = listing(run)
        with pytest.raises(ValueError, match=r"--overwrite would delete MODEL\.WEIGHTS"):
            command.make_room(cfg)
        assert listing(run) == before
        cfg.MODEL.WEIGHTS = ""
        (said,) = command.make_room(cfg)
        assert "model_best.pth" in said
