"""Completion in the shell by argcomplete, without torch: commands, options, files, configurations,
keys.

    eval "$(register-python-argcomplete yolor-d2)"                      # bash, zsh
    register-python-argcomplete --shell fish yolor-d2 | source          # fish
"""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Iterator
from importlib import resources

from . import config_paths

# Set by the shell when it asks for completions.
ENVIRONMENT_VARIABLE = "_ARGCOMPLETE"
# A key of this project, in one of these files of the package `config`.
KEY_FILES = ("network_keys.py", "run_keys.py")
OWN_KEY = re.compile(r"^    cfg\.([A-Z0-9_.]+) = (?!CfgNode\()", re.MULTILINE)
# A key of a task in `Task.add_config`, which stands in the file with the name of the task.
TASKS_NODE = "MODEL.YOLOR.TASKS."
TASK_KEY = re.compile(r"^        node\.([A-Z0-9_]+) = ", re.MULTILINE)


def answer(parser: argparse.ArgumentParser) -> None:
    """Print the completions that the shell asks for, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False)


# ---- Values, asked for by argcomplete through the attribute `completer` of an option


def complete_file(prefix: str, **_: object) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter()(prefix))


def complete_config(prefix: str, **_: object) -> list[str]:
    """Configurations of the model zoo, and files."""
    return [*config_paths.list_configs(), *complete_file(prefix)]


def complete_key(prefix: str, **_: object) -> list[str]:
    """Keys of the configuration, and files as values."""
    if _word_before(prefix) in list_keys():
        return complete_file(prefix)
    return [*list_keys()]


def complete_file_or_key(prefix: str, **_: object) -> list[str]:
    """Files, and keys, which may follow a list of files or a single one."""
    if not prefix or _word_before(prefix) in list_keys():
        return complete_file(prefix)
    return [*complete_file(prefix), *list_keys()]


def _word_before(prefix: str) -> str:
    """The word in front of the one that is completed, in the line that the shell tells."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or 0)]
    words = line.removesuffix(prefix).split()
    return words[-1] if words else ""


@functools.cache
def list_keys() -> tuple[str, ...]:
    """All keys of the configuration, read from where they are defined: to set them takes torch."""
    import yaml

    package = resources.files(__package__)
    defaults = package.joinpath("_builtin", "defaults.yaml").read_text(encoding="utf-8")
    own = []
    for name in KEY_FILES:
        own += OWN_KEY.findall(package.joinpath("config", name).read_text(encoding="utf-8"))
    for file in package.joinpath("tasks").iterdir():
        if file.name.endswith(".py"):
            keys = TASK_KEY.findall(file.read_text(encoding="utf-8"))
            task = file.name.removesuffix(".py").upper()
            own += [f"{TASKS_NODE}{task}.{key}" for key in keys]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(sorted({*_leaves(yaml.load(defaults, loader)), *own}))


def _leaves(values: dict, prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
