"""The one command of an installed package."""

import errno
import importlib
import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch.multiprocessing import ProcessRaisedException

from yolor_d2 import arguments, cli, commands
from yolor_d2.commands import shell

ROOT = Path(__file__).parents[1]


def test_every_module_of_commands_has_a_name_and_a_script():
    modules = {command.module for command in cli.COMMANDS.values()}
    for package, others in (
        (commands, {"__init__", "shell"}),
        (
            arguments,
            {"__init__", "common", "parser", "words"},
        ),
    ):
        files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
        assert modules == files - others
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == modules


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_an_example_of_this_program(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolor-d2"])
    module = importlib.import_module(f"yolor_d2.arguments.{cli.COMMANDS[name].module}")
    monkeypatch.setattr(module, "__doc__", module.__doc__)
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"^ *yolor-d2 {name}( |$)", text, re.M), text
    assert "python tools" not in text
    # A line that goes on ends with a backslash.
    assert not re.search(r"\S {3,}--", text.split("\n\n", 2)[2].partition("options:")[0]), text


def test_the_list_of_commands(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", text, re.M) for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err
    assert cli.main(["zzz"]) == 2
    assert "known are check, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ("ValueError: a: b\nand more", "a: b and more"),
        ("KeyError: 'no such key'", "no such key"),
        ("FileNotFoundError: [Errno 2] no file: 'x'", "no file: 'x'"),
        ("yolor_d2.checkpoint.errors.WeightsFileError: bad", "bad"),
        ("AssertionError", "AssertionError:  (--debug shows where)"),
        ("other.Error: odd", "ProcessRaisedException: odd (--debug shows where)"),
    ],
)
def test_errors_of_other_processes_are_one_line_too(last, line, capsys):
    text = (
        f"-- Process 0\nTraceback (most recent call last):\n  File 'x', line 3\n    f(x)\n{last}\n"
    )

    def command(_):
        raise ProcessRaisedException(text, 0, 1)

    assert shell.run(command, [], program="p") == 1
    assert capsys.readouterr().err == f"p: error: {line}\n"


def test_a_full_disk_is_told_as_such(capsys):
    """torch.save hides it behind an error of its own, and each line of the log would tell of it."""

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    def command(_):
        logging.StreamHandler(Full()).handle(logging.makeLogRecord({"msg": "a line"}))
        torch.save({"a": torch.zeros(100_000)}, Full())

    assert shell.run(command, [], program="p") == 1
    assert capsys.readouterr().err == "p: error: No space left on device\n"


def test_errors_are_one_line_and_debug_shows_where(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolor-d2"])
    assert cli.main(["analyze", "--config-file", "nowhere.yaml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("yolor-d2 analyze: error: no configuration 'nowhere.yaml'")
    assert cli.main(["analyze", "--config-file", "nowhere.yaml", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_eval_is_training_that_only_evaluates(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolor-d2"])
    module = importlib.import_module("yolor_d2.arguments.train_net")
    monkeypatch.setattr(module, "__doc__", module.__doc__)
    given = []
    monkeypatch.setattr("yolor_d2.commands.train_net.main", given.append)
    assert cli.main(["eval", "--config-file", "yolor_p6.yaml", "SEED", "1"]) == 0
    (args,) = given
    assert args.eval_only and args.config_file == "yolor_p6.yaml" and args.opts == ["SEED", "1"]


def test_env_lists_versions(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolor-d2"])
    assert cli.main(["env", "--json", str(tmp_path / "env.json")]) == 0
    found = json.loads((tmp_path / "env.json").read_text())
    assert set(found) >= {"yolor_d2", "torch", "detectron2", "runtime", "gpus", "system"}
    assert found["torch"] in capsys.readouterr().out


@pytest.mark.heavy
def test_the_installed_program_is_this_one():
    assert 'yolor-d2 = "yolor_d2.cli:main"' in (ROOT / "pyproject.toml").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "yolor_d2", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("yolor-d2 ")
