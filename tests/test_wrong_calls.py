"""What parsers refuse beyond argparse, each with the message a user reads; those of predict, export
and benchmark are beside the tests of these commands."""

import importlib

import pytest

from yolor_d2 import cli

# Command, and what it answers.
REFUSED = {
    "ablation 2 --seeds 0": "--seeds is 0, expected at least 1",
    "ablation 2 --train a.json images": "--train and --val go together",
    "ablation 2 --scale toy --train a.json i --val b.json i": "--scale toy generates its data",
    "convert a.pt --config-file x --output b.txt": "expected a name in .pth or .safetensors",
    "convert a.pth --config-file x --output a.pth": "--output is SOURCE itself",
    "split a b c --output d": "3 paths, expected a COCO file and a folder, or one path",
    "split a.json b --output d --val 1": "--val is 1.0, expected a fraction from 0 to below 1",
    "split a.json b --output d --val 0": "sum up to 0.0, expected below 1, above 0",
    "split a.json b --output d --groups x --group-key y": "exclude each other",
    "split a.json b --output d --seed -1": "--seed is -1, expected at least 0",
}


@pytest.mark.parametrize("line", REFUSED)
def test_it_is_refused_with_its_reason(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "a.pth"):
        (tmp_path / name).touch()
    name, *words = line.split()
    known = cli.COMMANDS[name]
    arguments = importlib.import_module(f"yolor_d2.arguments.{known.module}")
    with pytest.raises(SystemExit) as end:
        arguments.parse_args([*known.arguments, *words])
    assert end.value.code == 2
    assert REFUSED[line] in capsys.readouterr().err
