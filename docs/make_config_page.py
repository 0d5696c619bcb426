"""Write docs/config.md from the source of the functions that add the keys.

python docs/make_config_page.py
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from yolor_d2.config.network_keys import add_network_keys
from yolor_d2.config.run_keys import add_run_keys
from yolor_d2.tasks import TASKS

PAGE = Path(__file__).with_name("config.md")
HEAD = """\
# Configuration

The keys that this project adds to Detectron2's, with their defaults. Any of them can be set in a
YAML file or behind a command (`KEY VALUE`); an unknown one is an error that names the nearest known
one. Detectron2's own keys are described in
[its documentation](https://detectron2.readthedocs.io/en/latest/modules/config.html); what the
configurations in `configs/` set is in [models.md](models.md) and [training.md](training.md).

This page is written by `python docs/make_config_page.py`.
"""
SECTION = "---- "
# Where the keys of further tasks belong, and what is said of them.
TASKS_PLACE = "tasks"
TASKS_HEAD = """
## Further tasks

They share the representation with detection (paper section 5.4; docs/multi_task.md).
"""
TABLE = "| key | default | |\n|---|---|---|"


def comment_above(lines: list[str], number: int) -> list[str]:
    """The comment that ends right above a line, which counts from 1."""
    found: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        found.insert(0, line.strip().removeprefix("#").strip())
    return found


def sections() -> Iterator[tuple[str, str, str]]:
    """Functions that add keys: their source, the name of what they add to, and its key."""
    for add in (add_network_keys, add_run_keys):
        yield inspect.getsource(add), "cfg", ""
    for name, task in TASKS.items():
        yield inspect.getsource(task.add_config), "node", f"MODEL.YOLOR.TASKS.{name.upper()}"


def rows_of(source: str, variable: str, node: str) -> Iterator[str]:
    """Headings and rows of the page from the source of a function.

    Raises:
        ValueError: when a key has no comment, and none that it shares with the key before it.
    """
    source = textwrap.dedent(source)
    lines = source.splitlines()
    text, above = "", 0  # of the statement before, and its last line
    for statement in ast.parse(source).body[0].body:
        if isinstance(statement, ast.Expr) and ast.unparse(statement) == "add_task_config(cfg)":
            yield TASKS_PLACE
        if not isinstance(statement, ast.Assign):
            continue
        key = ast.unparse(statement.targets[0]).removeprefix(f"{variable}.")
        default = ast.unparse(statement.value)
        words = comment_above(lines, statement.lineno)
        starts_section = bool(words) and words[0].startswith(SECTION)
        heading = words.pop(0).removeprefix(SECTION) if starts_section else ""
        shared = not words and statement.lineno == above + 1
        text = text if shared else " ".join(words)
        above = statement.end_lineno
        if heading:
            yield f"\n## {heading}\n"
        if default == "CfgNode()":
            if starts_section:
                yield from [text + "\n"] if text else []  # about all keys of the section
                yield TABLE
            continue
        if heading:
            yield TABLE
        if not text:
            raise ValueError(f"{key} has no comment where it is added")
        key = f"{node}.{key}" if node else key
        yield f"| `{key}` | `{default}` | {text.replace('|', chr(92) + '|')} |"


def page() -> str:
    """The whole page; errors as of `rows_of`."""
    network, run, *tasks = [list(rows_of(*section)) for section in sections()]
    own = network + run
    place = own.index(TASKS_PLACE)
    own[place : place + 1] = [TASKS_HEAD, TABLE, *(row for rows in tasks for row in rows)]
    return "\n".join([HEAD, *own]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
