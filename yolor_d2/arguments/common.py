"""Options that several commands have, and the checks that go with them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..completion import complete_config, complete_file_or_key, complete_key
from ..inputs import overridden_weights, require_overrides, require_weights
from ..model_zoo import find_config

CONFIG_KEY = re.compile(r"[A-Z0-9_]+(\.[A-Z0-9_]+)+")
# Annotations and images, as --train and --val take them.
COCO_FILES = {"nargs": 2, "metavar": ("JSON", "FOLDER")}


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a module as it stands."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config_file(
    parser: argparse._ActionsContainer,
    help_text: str = "path, or name in the model zoo",
    **options: object,
) -> None:
    """Add --config-file, which without other options is required, and --import."""
    action = parser.add_argument("--config-file", help=help_text, **(options or {"required": True}))
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


def add_overrides(
    parser: argparse.ArgumentParser,
    help_text: str = "KEY VALUE pairs",
    nargs: str = argparse.REMAINDER,
) -> None:
    """Add keys of the configuration, at the end of the command or, with "*", anywhere."""
    parser.add_argument("opts", nargs=nargs, help=help_text).completer = complete_key


def add_paths(parser: argparse.ArgumentParser, name: str, **options: object) -> None:
    """Add a list of files and folders, which overrides may follow; see `split_overrides`."""
    action = parser.add_argument(name, nargs="+", type=Path, **options)
    action.completer = complete_file_or_key


def split_overrides(args: argparse.Namespace, name: str) -> None:
    """End a list of paths, the option `name`, where overrides follow, which join the others."""
    paths = getattr(args, name)
    is_key = (i for i, path in enumerate(paths) if CONFIG_KEY.fullmatch(str(path)))
    end = next(is_key, len(paths))
    setattr(args, name, list(paths[:end]))
    args.opts = [*map(str, paths[end:]), *args.opts]


def check_config(args: argparse.Namespace) -> None:
    """Look for the configuration file, and at the form of the overrides."""
    find_config(args.config_file)
    require_overrides(args.opts)


def check_weights(args: argparse.Namespace) -> None:
    """Look for MODEL.WEIGHTS where a model of the command line is to be predicted with."""
    weights = overridden_weights(args.opts)
    if weights:
        require_weights(weights)
