"""Refuse wording that docs/refused_words.txt lists, in documents and in the text of the code.

    python docs/check_words.py [FILE ...]

Without files it reads README.md, CONTRIBUTING.md, docs/*.md, the newest part of CHANGELOG.md, and
the comments, docstrings and strings of yolor_d2/, tools/, examples/ and tests/. Code between
backticks, links and strings of a single word (keys and names) are not prose and are skipped.
"""

import io
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RULES = Path(__file__).with_name("refused_words.txt")
# Files that quote refused wordings: the test of this one, and of former names.
QUOTING = {"test_refused_words.py", "test_moved.py"}
# Stands for what is not prose. No pattern matches it, so that none spans code between two comments.
CODE = "\0"


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    instead: str


def read_rules(path: Path = RULES) -> list[Rule]:
    """Read the rules; ValueError names a line that is not `expression  ->  words`."""
    rules = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        expression, arrow, instead = line.partition("  ->  ")
        if not arrow:
            raise ValueError(f"{path}:{number}: expected 'expression  ->  words', got {line!r}")
        spaced = expression.strip().replace(" ", r"\s")
        flags = re.IGNORECASE | re.MULTILINE
        rules.append(Rule(re.compile(rf"(?<!\w)(?:{spaced})(?!\w)", flags), instead.strip()))
    return rules


def blank(text: str) -> str:
    """The same number of characters and lines, without a word in it."""
    return re.sub(r"\S", CODE, text)


def markdown_prose(text: str) -> str:
    """Prose of a document: without inline code and the targets of links."""
    return re.sub(r"``.+?``|`[^`\n]+`|\]\([^)\s]+\)|<https?:[^>]+>", lambda m: blank(m[0]), text)


def string_prose(literal: str) -> str:
    """Prose of one token of a string; an f-string's head or tail may be all of it."""
    quoted = re.match(r"(?s)([a-zA-Z]*)('''|\"\"\"|'|\")(.*)\2$", literal)
    body = quoted[3] if quoted else literal
    if not re.search(r"\s", body):
        return blank(literal)
    start = literal.index(body)
    if quoted and "f" in quoted[1].lower():  # up to Python 3.11 one token with its expressions
        body = re.sub(r"\{[^{}]*\}", lambda match: blank(match[0]), body)
    # Quotes become spaces, as two literals in a row are one text.
    return " " * start + body + " " * (len(literal) - start - len(body))


def python_prose(text: str) -> str:
    """Prose of a module, every character at its place: comments, docstrings and other strings."""
    lines = [blank(line) for line in text.splitlines(keepends=True)]
    fstring_middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # from Python 3.12
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            prose = " " + token.string[1:]
        elif token.type in (tokenize.STRING, fstring_middle):
            prose = string_prose(token.string)
        else:
            continue
        (row, column), _ = token.start, token.end
        for offset, part in enumerate(prose.splitlines(keepends=True)):
            begin = column if offset == 0 else 0
            line = lines[row - 1 + offset]
            lines[row - 1 + offset] = line[:begin] + part + line[begin + len(part) :]
    return markdown_prose("".join(lines))


def newest_changes(text: str) -> str:
    """The part of the changelog under its first heading of a version."""
    return re.split(r"(?m)^## ", text, maxsplit=2)[1] if "\n## " in text else text


def prose_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return python_prose(text)
    if path.name == "CHANGELOG.md":
        newest = newest_changes(text)
        return "\n" * text[: text.index(newest)].count("\n") + markdown_prose(newest)
    return markdown_prose(text)


def default_files() -> list[Path]:
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += sorted((ROOT / "docs").glob("*.md"))
    for folder in ("yolor_d2", "tools", "examples", "tests"):
        files += sorted((ROOT / folder).rglob("*.py"))
    return [path for path in files if path.name not in QUOTING]


def find_refused(prose: str, rules: list[Rule]) -> list[tuple[int, str, str]]:
    """Line, wording and what to write instead, in the order of the lines."""
    # One character between words of a paragraph, two or more between paragraphs.
    prose = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]+", " ", prose))
    found = [
        (prose.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), rule.instead)
        for rule in rules
        for match in rule.pattern.finditer(prose)
    ]
    return sorted(found)


def main(names: list[str]) -> int:
    rules = read_rules()
    count = 0
    for path in [Path(name) for name in names] or default_files():
        for line, wording, instead in find_refused(prose_of(path), rules):
            count += 1
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            sys.stdout.write(f"{shown}:{line}: {wording!r}: write {instead}\n")
    if count:
        sys.stdout.write(f"{count} refused wordings ({RULES.name} has the rules).\n")
    return 1 if count else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
