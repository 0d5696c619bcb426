"""The public interface of docs/api/index.md is what the modules export."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "api" / "index.md"
IMPORTS = re.findall(r"^\| `from ([\w.]+) import ([\w, ]+)` \|", PAGE.read_text(), re.MULTILINE)
PAIRS = [(module, name) for module, names in IMPORTS for name in names.split(", ")]


@pytest.mark.parametrize("module, name", PAIRS)
def test_a_public_name_is_exported_by_its_module(module, name):
    found = importlib.import_module(module)
    if module == "yolor_d2" and name != "load":  # a module of its own
        assert importlib.import_module(f"{module}.{name}").__all__
        return
    assert name in found.__all__
    assert getattr(found, name).__doc__ or isinstance(getattr(found, name), dict)


@pytest.mark.parametrize("module", sorted({module for module, _ in PAIRS}))
def test_all_names_that_a_module_exports_exist(module):
    found = importlib.import_module(module)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
