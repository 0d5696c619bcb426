r"""One command for those who installed with pip: `yolor-d2 train`, `yolor-d2 predict`, ...

    yolor-d2 train --config-file quick/fast_start.yaml --train train.json images/ \
        --val val.json images/ OUTPUT_DIR output/mine
    yolor-d2 predict output/mine photos/ video.mp4
    yolor-d2 report output/mine

`yolor-d2 COMMAND --help` describes a command, with examples. Errors are one line; `--debug` adds
the traceback.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from . import __version__, completion
from .commands import execute
from .commands.shell import run
from .wording import nearest

PROGRAM = "yolor-d2"


@dataclass(frozen=True)
class Command:
    """A command of the shell.

    Attributes:
        module: in `yolor_d2.arguments`, whose docstring has examples of the script
            tools/MODULE.py, and in `yolor_d2.commands`.
        summary: for the list of commands.
        arguments: put in front of the user's.
    """

    module: str
    summary: str
    arguments: tuple[str, ...] = ()


# In the order of a project: data, training, results, use; then what researchers need.
COMMANDS = {
    "check": Command("check_dataset", "check a data set for errors, and repair it"),
    "convert-data": Command("convert_dataset", "convert YOLO or Pascal VOC labels to COCO JSON"),
    "split": Command("split", "split a data set for training and evaluation"),
    "anchors": Command("fit_anchors", "fit anchors to the boxes of a data set"),
    "samples": Command("visualize_data", "draw training samples after augmentation"),
    "train": Command("train_net", "train a model, or resume a run"),
    "eval": Command("train_net", "evaluate a model", ("--eval-only",)),
    "report": Command("report", "show the errors of a model, or compare two runs"),
    "show": Command("show_run", "draw curves and detections of a run"),
    "predict": Command("predict", "detect objects in images, folders, videos, camera streams"),
    "export": Command("export_model", "export to ONNX, TorchScript, .pt2 or OpenVINO, verified"),
    "convert": Command("convert_weights", "convert weights of other programs"),
    "benchmark": Command("benchmark", "measure speed on this machine"),
    "analyze": Command("analyze_model", "count parameters and operations of a model"),
    "implicit": Command("plot_implicit", "draw the implicit knowledge of a trained model"),
    "ablation": Command("run_ablation", "train and compare the rows of a table of the paper"),
    "env": Command("env", "show versions and devices, for bug reports"),
}

# Names in other programs.
OTHER_NAMES = {
    **dict.fromkeys(("val", "valid", "validate", "test"), "eval"),
    **dict.fromkeys(("detect", "infer", "inference", "demo", "track"), "predict"),
    **dict.fromkeys(("fit", "finetune", "resume"), "train"),
    **dict.fromkeys(("doctor", "validate-data"), "check"),
    **dict.fromkeys(("checks", "settings", "info"), "env"),
    "tune": "ablation",
}


def usage() -> str:
    """What `yolor-d2 --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    assert __doc__ is not None
    return f"usage: {PROGRAM} COMMAND ...\n\n{__doc__}\ncommands:\n" + "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """A parser of all commands, for completion in the shell."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("-V", "--version", action="store_true")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        arguments = importlib.import_module(f".arguments.{command.module}", __package__)
        commands.add_parser(
            name, help=command.summary, parents=[arguments.build_parser()], add_help=False
        )
    return parser


def run_script(name: str) -> int:
    """What tools/NAME.py does: run a command under that name; returns its exit status."""
    return run(functools.partial(execute, name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if completion.ENVIRONMENT_VARIABLE in os.environ:
        completion.answer(build_parser())
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version", "version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = [OTHER_NAMES[name]] if name in OTHER_NAMES else nearest(name, COMMANDS)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COMMANDS)}"
        print(f"{PROGRAM}: error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    program = f"{PROGRAM} {name}"
    sys.argv[0] = program  # what argparse begins its messages with

    command = COMMANDS[name]

    def command_line(arguments: Sequence[str]) -> int | None:
        return execute(command.module, [*command.arguments, *arguments])

    return run(command_line, rest, program=program)


if __name__ == "__main__":
    sys.exit(main())
