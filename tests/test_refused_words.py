"""docs/check_words.py: which text it reads, and that it finds what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "docs" / "check_words.py"
spec = importlib.util.spec_from_file_location("check_words", FILE)
check_words = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_words)
RULES = check_words.read_rules()


def refused(path: Path, text: str) -> list[tuple[int, str]]:
    path.write_text(text, encoding="utf-8")
    return [found[:2] for found in check_words.find_refused(check_words.prose_of(path), RULES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The figures of\nthe run.", [(1, "figures")]),
        ("One\ntwo what\nwas  found.", [(2, "what was found")]),
        ("Args:\n    figure: a chart", []),
        ("As figure 8 shows, and `figures` and [a](figures.md).", []),
        ("Non-maximum\nsuppression.", []),
        ("Boxes before suppression.", [(1, "suppression")]),
        ("These boxes share a class; a share of them.", [(1, "a share")]),
        ("    yolor-d2 train  # go on after a break", [(1, "go on after")]),
    ],
)
def test_what_is_refused_in_a_document(text, expected, tmp_path):
    assert refused(tmp_path / "page.md", text) == expected


def test_only_the_prose_of_a_module_is_read(tmp_path):
    module = '''"""Reads the
figures."""
figures = {"figures": 1}  # the way
down = f"{figures} is the way" " up"
# the way
other = 1
# down
'''
    assert refused(tmp_path / "module.py", module) == [(2, "figures"), (4, "way up")]


def test_only_the_newest_part_of_the_changelog_is_read(tmp_path):
    text = "# Changelog\n\n## 0.2.0\n\nfigures\n\n## 0.1.0\n\nfigures\n"
    assert refused(tmp_path / "CHANGELOG.md", text) == [(5, "figures")]


def test_a_rule_without_an_alternative_is_an_error(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_text("# comment\nfigures\n")
    with pytest.raises(ValueError, match=r"rules.txt:2: expected 'expression  ->  words'"):
        check_words.read_rules(path)
