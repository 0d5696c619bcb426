"""What the runtime in use does is what was recorded of Detectron2."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from contract.facts import FACTS

from yolor_d2.d2 import RUNTIME

FOLDER = Path(__file__).parent
GOLDEN = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))


def assert_same(found: object, expected: object, where: str) -> None:
    """Equal; numbers to 1e-6, in percent or pixels, and NaN equals NaN."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected)):
            assert_same(one, other, f"{where}/{i}")
    elif isinstance(expected, float):
        assert math.isnan(found) if math.isnan(expected) else abs(found - expected) <= 1e-6, where
    else:
        assert (type(found), found) == (type(expected), expected), where


def test_every_fact_is_recorded():
    assert list(GOLDEN) == list(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_fact(name, tmp_path):
    found = json.loads(json.dumps(FACTS[name](tmp_path)))
    assert_same(found, GOLDEN[name], name)


@pytest.mark.skipif(RUNTIME != "builtin", reason="about the built-in runtime")
def test_the_built_in_runtime_is_not_recorded():
    done = subprocess.run([sys.executable, FOLDER / "record.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "only real Detectron2 is recorded" in done.stderr
