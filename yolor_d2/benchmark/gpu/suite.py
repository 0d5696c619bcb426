"""The tests that need a GPU, in a process of their own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

from .common import CHECKOUT, Findings, Setting, free_memory

# What pytest ends with when no test is chosen.
NO_TESTS = 5
LAST_LINES = 30


def measure(setting: Setting, findings: Findings) -> None:
    """Run them within the time limit.

    Raises:
        RuntimeError: when a test fails, with the end of the output.
        subprocess.TimeoutExpired: when they take longer.
    """
    if setting.dry:
        findings.leave_out("all tests", "they need a GPU")
        return
    if not all((CHECKOUT / name).exists() for name in ("pyproject.toml", "tests")):
        findings.leave_out("all tests", "they belong to a checkout, not to an installed package")
        return
    if importlib.util.find_spec("pytest") is None:
        findings.leave_out("all tests", "pytest is not installed")
        return
    free_memory()  # the tests may want it
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfE"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=findings.left,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    summary = re.sub(r"^=+ | =+$", "", lines[-1]) if lines else ""
    findings.rows.append(
        {"command": "pytest -m gpu", "exit status": done.returncode, "last line": summary}
    )
    if done.returncode == NO_TESTS:
        findings.leave_out("all tests", "no test is marked gpu")
    elif done.returncode:
        raise RuntimeError("\n".join(lines[-LAST_LINES:]))
