"""Record the facts of real Detectron2 in golden.json.

python tests/contract/record.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden.json"


def main() -> None:
    # As pytest does: the package, and `contract` below tests.
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    from yolor_d2.d2 import RUNTIME

    if RUNTIME != "detectron2":
        sys.exit("only real Detectron2 is recorded, and the built-in runtime is in use")
    from contract.facts import FACTS

    lines = []
    for name, function in FACTS.items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append(f"{json.dumps(name)}: {json.dumps(function(Path(folder)))}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
