"""Options that several commands have, and the checks that go with them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..completion import complete_config, complete_file_or_key, complete_key
from ..config_paths import find_config, zoo_path
from ..inputs import overridden_weights, require_overrides, require_weights
from ..runs import BEST_WEIGHTS, find_run
from .parser import CommandParser
from .words import KEYS

# Annotations and images, as --train and --val take them, or one data.yaml.
COCO_FILES = {"nargs": "+", "metavar": ("JSON", "FOLDER")}
MOST_PATHS = 2  # of a data set
# What --weights and others say in the help.
KEY_HELP = {
    "weights": ("FILE", "initial weights (MODEL.WEIGHTS); a run stands for its best weights"),
    "size": ("N", "longer side of the images in pixels (the four sizes of INPUT)"),
    "device": ("D", "cpu, cuda, or the number of a GPU (MODEL.DEVICE)"),
    "batch": ("N", "images per iteration of training (SOLVER.IMS_PER_BATCH) or evaluation"),
    "epochs": ("N", "how long to train (SOLVER.MAX_EPOCHS)"),
    "iou": ("X", "IoU threshold of NMS (MODEL.YOLOR.NMS_THRESHOLD)"),
}
NO_CONFIGURATION = """\
no configuration: which model, and how to train it? docs/models.md has them all
  on your data:      yolor-d2 train --config-file quick/fast_start.yaml \
--train train.json images/ --val val.json images/
  resume a run:      yolor-d2 train output/mine --resume"""
NO_MODEL = (
    "no model: give the folder of a run, such as output/mine, or --config-file NAME --weights FILE"
)


def new_parser(doc: str | None) -> CommandParser:
    """A parser whose help is the docstring of a module, unchanged."""
    return CommandParser(
        prog=Path(sys.argv[0]).name,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_file(
    parser: argparse._ActionsContainer,
    help_text: str = "path, or name in the model zoo",
    **options: object,
) -> None:
    """Add --config-file and --import."""
    action = parser.add_argument("--config-file", metavar="FILE", help=help_text, **options)
    action.completer = complete_config
    if not isinstance(parser, argparse.ArgumentParser):
        return  # alternatives to a configuration
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="module of your own that registers parts of the model (docs/extending.md)",
    )


def add_run(
    parser: argparse.ArgumentParser,
    help_text: str = "folder of a run, whose model is used",
    **options: object,
) -> None:
    """Add RUN, a positional, and --config-file; `use_run` makes one of them."""
    action = parser.add_argument("run", nargs="?", metavar="RUN", help=help_text)
    action.completer = complete_file_or_key
    add_config_file(parser, **options)


def add_keys(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that set keys of the configuration, by their names in `words.KEYS`."""
    for name in names:
        metavar, help_text = KEY_HELP[name]
        action = parser.add_argument(
            f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=help_text
        )
        action.sets = KEYS[name]


def add_dataset(parser: argparse.ArgumentParser, name: str, help_text: str) -> argparse.Action:
    """Add --train or --val."""
    action = parser.add_argument(f"--{name}", **COCO_FILES, help=help_text)
    action.most = MOST_PATHS  # what follows is no part of it
    return action


def add_overrides(
    parser: argparse.ArgumentParser,
    help_text: str = "keys of the configuration and their values, anywhere",
) -> None:
    """Add keys of the configuration."""
    action = parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help=help_text)
    action.completer = complete_key


def add_paths(parser: argparse.ArgumentParser, name: str, **options: object) -> None:
    """Add a list of files and folders."""
    action = parser.add_argument(name, action="extend", nargs="+", **{"type": Path, **options})
    action.completer = complete_file_or_key


def is_model(word: str) -> bool:
    """Whether a word stands for a run or a configuration."""
    path = Path(word).expanduser()
    if find_run(path) is not None or path.suffix in (".yaml", ".yml"):
        return True
    return not path.exists() and zoo_path(word) is not None


def use_run(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    *,
    weights: bool = True,
    folder: bool = False,
    missing: str = NO_MODEL,
) -> None:
    """Find configuration and weights where a run stands for both.

    --config-file and pairs win. `args.run` becomes the folder of the run, or None.

    Args:
        parser: to end with a message.
        args: changed in place: `run`, `config_file`, `opts`.
        weights: the command works with trained weights.
        folder: results go into the folder of the run (OUTPUT_DIR).
        missing: message for where there is neither run nor configuration.
    """
    given, args.run = args.run, None
    asked = overridden_weights(args.opts)
    run = None if given is None else find_run(given)
    if given is not None and run is None:
        if args.config_file is not None:
            parser.error(f"{given!r} is no run, a folder with config.yaml, and no option is for it")
        args.config_file = given  # a configuration, or nothing, which is reported later
    if run is None and args.config_file is not None:
        run = find_run(args.config_file)
        args.config_file = args.config_file if run is None else str(run.config)
    elif run is None and asked:
        run = find_run(asked)
    if run is not None and args.config_file is None:
        args.config_file = str(run.config)
    if args.config_file is None:
        parser.error(missing)
    if asked and Path(asked).is_dir():  # a run stands for its weights
        of_weights = find_run(asked)
        if of_weights is not None and of_weights.weights is not None:
            args.opts += ["MODEL.WEIGHTS", str(of_weights.weights)]
            tell(parser, args, f"weights {of_weights.weights}")
    if run is None:
        return
    args.run = run.folder
    if folder:
        args.opts[:0] = ["OUTPUT_DIR", str(run.folder)]
    if weights and asked is None and run.weights is None and given is not None:
        # Its configuration may name weights, but those that it began with.
        parser.error(
            f"{str(run.folder)!r} has no weights yet: no {', '.join(BEST_WEIGHTS)}, no checkpoint"
        )
    if weights and asked is None and run.weights is not None:
        args.opts[:0] = ["MODEL.WEIGHTS", str(run.weights)]
        tell(parser, args, f"weights {run.weights}")


def tell(parser: argparse.ArgumentParser, args: argparse.Namespace, text: str) -> None:
    """Note what was chosen, for `check_config` to say."""
    args.notes = [*getattr(args, "notes", []), f"{parser.prog}: {text}"]


def check_config(args: argparse.Namespace) -> None:
    """Look for the configuration file, and at the overrides; say what was chosen."""
    find_config(args.config_file)
    require_overrides(args.opts)
    # Once, where several processes are started from outside.
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        for note in getattr(args, "notes", []):
            print(note, file=sys.stderr)


def check_weights(args: argparse.Namespace) -> None:
    """Look for MODEL.WEIGHTS where a model of the command line is to be predicted with."""
    weights = overridden_weights(args.opts)
    if weights:
        require_weights(weights)
