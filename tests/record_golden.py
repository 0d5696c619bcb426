"""Make the compact records in tests/golden from full records of the reference implementation.

    python tests/record_golden.py FOLDER

FOLDER, of YOLOR's records or of YOLOv7's, holds pairs of `<name>.npz` (numbers recorded from the
reference implementation) and `<name>.json` (what they are). Inputs and weights follow the rules in
`yolor_d2/golden.py`: they are not stored. Of the outputs of whole networks only every 13th number
is kept (`flat[::13]`). 13 and the 85 outputs of an anchor have no common factor, so that every
channel and every cell is met. Everything else is kept whole.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
STEP = 13
# Blocks that the package has; the source folder holds more.
BLOCKS = {
    "modules_paper": [
        *("Y_spp", "Y_cspc", "Y_cspf", "Y_plain", "Y_downc"),
        *("reorg", "dwt", "implicit_a", "implicit_m"),
    ],
    "modules_main": ["D_cspf", "D_cspc", "D_plain", "D_spp", "mish"],
}


def save(name: str, arrays: dict[str, np.ndarray], info: dict) -> None:
    """Write one record; the JSON has one entry of the top level, or one weight, per line."""
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    text = json.dumps(info, separators=(",", ":"), sort_keys=True)
    text = text.replace("],[", "],\n[").replace("},", "},\n")
    (GOLDEN / f"{name}.json").write_text(text + "\n")


def record_network(source: Path, source_name: str, name: str) -> None:
    """A whole network: running statistics as they are, outputs thinned."""
    full = np.load(source / f"{source_name}.npz")
    info = json.loads((source / f"{source_name}.json").read_text())
    arrays = {}
    for key in full.files:
        thin = key.startswith(("raw", "train_raw", "decoded"))
        arrays[key] = full[key].reshape(-1)[::STEP] if thin else full[key]
    kept = ["input_shape", "params", "tolerance_info", "bn_after_train", "keys"]
    added = {"step": STEP, "input_tag": f"input:{source_name}"}
    save(name, arrays, added | {key: info[key] for key in kept})


def record_blocks(source: Path) -> None:
    """Single blocks, from two source files."""
    arrays, info = {}, {}
    for name, cases in BLOCKS.items():
        full = np.load(source / f"{name}.npz")
        cases_info = json.loads((source / f"{name}.json").read_text())
        for case in cases:
            arrays[case] = full[case]
            info[case] = {key: cases_info[case][key] for key in ("input", "keys")}
    save("blocks", arrays, info)


def record_ops(source: Path) -> None:
    """Assignment, losses, gradients, overlaps and suppression, whole."""
    full = np.load(source / "loss_nms.npz")
    info = json.loads((source / "loss_nms.json").read_text())
    save("ops", {key: full[key] for key in full.files}, info)


def record_loss_v7(source: Path) -> None:
    """YOLOv7's losses with plain assignment."""
    full = np.load(source / "loss_v7.npz")
    info = json.loads((source / "loss_v7.json").read_text())
    kept = ("anchors", "image_hw", "batch", "nc", "hyp", "assigned_per_level")
    cases = {
        case: {key: values[key] for key in kept}
        for case, values in info.items()
        if case.startswith("plain_")
    }
    arrays = {key: full[key] for key in full.files if key.split("/")[0] in cases}
    save("loss_v7", arrays, cases)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the compact records in tests/golden.")
    parser.add_argument("source", type=Path, help="folder with the full records")
    source = parser.parse_args().source
    GOLDEN.mkdir(exist_ok=True)
    if (source / "loss_v7.npz").is_file():  # another folder of records
        record_loss_v7(source)
        return
    record_network(source, "yolor-p6", "yolor_p6_paper")
    record_network(source, "yolor_csp", "yolor_csp")
    record_network(source, "yolor-ssss-dwt", "yolor_ssss_dwt")
    record_blocks(source)
    record_ops(source)


if __name__ == "__main__":
    main()
