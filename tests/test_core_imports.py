"""The core stands alone: it imports without the Detectron2 side.

That no file of it names that side is a contract in pyproject.toml, checked by `make lint`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "yolor_d2"
FOREIGN = ("detectron2", "fvcore", "yacs", "cv2", "pycocotools", "iopath")

IMPORT_CORE = """
import yolor_d2.layers, yolor_d2.networks, yolor_d2.ops
loaded = sorted(name for name in sys.modules if name.split(".")[0] in FOREIGN and sys.modules[name])
assert not loaded and "yolor_d2.d2" not in sys.modules, loaded
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


@pytest.mark.heavy
@pytest.mark.parametrize("way", HIDE)
def test_core_imports_alone(way):
    code = f"import sys\nFOREIGN = {FOREIGN}\n{HIDE[way]}\n{IMPORT_CORE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
