"""The core stands alone: it imports without the Detectron2 side and never names it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "yolor_d2"
CORE = ("layers", "networks", "ops")
FOREIGN = ("detectron2", "fvcore", "yacs", "cv2", "pycocotools", "iopath")

IMPORT_CORE = """
import yolor_d2.layers, yolor_d2.networks, yolor_d2.ops
loaded = sorted(name for name in sys.modules if name.split(".")[0] in FOREIGN and sys.modules[name])
assert not loaded, loaded
network = yolor_d2.networks.build_network("yolor_ssss_s2d", 1)
"""
# As if not installed, in the two ways in which other projects hide modules.
HIDE = {
    "None in sys.modules": "sys.modules.update(dict.fromkeys(FOREIGN))",
    "a finder that raises": """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FOREIGN:
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Refuse())
""",
}


@pytest.mark.parametrize("way", HIDE)
def test_core_imports_alone(way):
    code = f"import sys\nFOREIGN = {FOREIGN}\n{HIDE[way]}\n{IMPORT_CORE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def imported_modules(path):
    """Absolute names of all that a file imports, wherever in the file."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(module, *roots):
    return any(module == root or module.startswith(root + ".") for root in roots)


def files(*folders):
    found = [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py"))]
    assert found
    return found


def test_relative_imports_are_resolved():
    modules = set(imported_modules(PACKAGE / "networks" / "network.py"))
    assert {"yolor_d2.ops.decode.decode", "yolor_d2.networks.head.AnchorHead", "torch"} <= modules


@pytest.mark.parametrize("path", files(*CORE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_names_only_the_core(path):
    core = [f"yolor_d2.{name}" for name in CORE]
    for module in imported_modules(path):
        assert not is_within(module, *FOREIGN), module
        assert is_within(module, *core) or not is_within(module, "yolor_d2"), module


def test_only_the_seam_names_detectron2():
    outside = [path for path in files(".") if path.relative_to(PACKAGE).parts[0] != "d2"]
    named = [
        f"{path.relative_to(PACKAGE)}: {module}"
        for path in outside
        for module in imported_modules(path)
        if is_within(module, "detectron2")
    ]
    assert named == []
