"""Write docs/config.md from the source of `yolor_d2.config.add_yolor_config`.

python docs/make_config_page.py
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

from yolor_d2.config import add_yolor_config

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
TABLE = "| key | default | |\n|---|---|---|"


def comment_above(lines: list[str], number: int) -> list[str]:
    """The comment that ends right above a line, which counts from 1."""
    found: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        found.insert(0, line.strip().removeprefix("#").strip())
    return found


def page() -> str:
    """The whole page.

    Raises:
        ValueError: when a key has no comment, and none that it shares with the key before it.
    """
    source = textwrap.dedent(inspect.getsource(add_yolor_config))
    lines = source.splitlines()
    parts = [HEAD]
    text, above = "", 0  # of the statement before, and its last line
    rows: list[str] = []
    for statement in ast.parse(source).body[0].body:
        if not isinstance(statement, ast.Assign):
            continue
        key = ast.unparse(statement.targets[0]).removeprefix("cfg.")
        default = ast.unparse(statement.value)
        words = comment_above(lines, statement.lineno)
        starts_section = bool(words) and words[0].startswith(SECTION)
        if starts_section:
            parts += rows
            rows = [f"\n## {words.pop(0).removeprefix(SECTION)}\n", TABLE]
        shared = not words and statement.lineno == above + 1
        text = text if shared else " ".join(words)
        above = statement.end_lineno
        if default == "CfgNode()":
            if starts_section and text:
                rows.insert(1, text + "\n")  # about all keys of the section
            continue
        if not text:
            raise ValueError(f"{key} has no comment in add_yolor_config")
        rows.append(f"| `{key}` | `{default}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(parts + rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
