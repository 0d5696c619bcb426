"""Make the compact records in tests/golden from full records of the reference implementation.

    python tests/record_golden.py FOLDER [FOLDER ...]

A FOLDER holds pairs of `<name>.npz` (numbers recorded from the reference implementation) and
`<name>.json` (what they are); of the records that are known here those that it has are made. Inputs
and weights follow the rules in `yolor_d2/golden.py`: they are not stored. Of the outputs of whole
networks only every 13th number is kept (`flat[::13]`). 13 and the 85 outputs of an anchor, or the
10 that newer records hold of them, have no common factor, so that every channel and every cell is
met. Everything else is kept whole.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
STEP = 13
# Whole networks, by the name of the source. YOLOv7 itself would be another 240 kB: where its full
# record is, tests/networks/test_golden_network.py compares with that.
NETWORKS = {
    "yolor-p6": "yolor_p6_paper",
    "yolor_csp": "yolor_csp",
    "yolor-ssss-dwt": "yolor_ssss_dwt",
    "yolov7-tiny": "yolov7_tiny",
    "yolov7-w6": "yolov7_w6",
    "yolov5s-r5": "yolov5_s",
}
# Blocks that the package has; these source files hold more.
BLOCKS = {
    "modules_paper": [
        *("Y_spp", "Y_cspc", "Y_cspf", "Y_plain", "Y_downc"),
        *("reorg", "dwt", "implicit_a", "implicit_m"),
    ],
    "modules_main": ["D_cspf", "D_cspc", "D_plain", "D_spp", "mish"],
}
# Single blocks and heads, of which the package has all.
WHOLE = ["blocks_v7", "blocks_v5", "tasks_kpt", "tasks_seg"]


def save(name: str, arrays: dict[str, np.ndarray], info: dict) -> None:
    """Write one record; the JSON has one entry of the top level, or one weight, per line."""
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    text = json.dumps(info, separators=(",", ":"), sort_keys=True)
    text = text.replace("],[", "],\n[").replace("},", "},\n")
    (GOLDEN / f"{name}.json").write_text(text + "\n")


def record_network(source: Path, source_name: str, name: str) -> None:
    """A whole network: running statistics unchanged, outputs thinned."""
    full = np.load(source / f"{source_name}.npz")
    info = json.loads((source / f"{source_name}.json").read_text())
    arrays = {}
    for key in full.files:
        thin = key.startswith(("raw", "aux_raw", "train_raw", "train_aux_raw", "decoded"))
        arrays[key] = full[key].reshape(-1)[::STEP] if thin else full[key]
    kept = ["input_shape", "params", "tolerance_info", "bn_after_train", "keys"]
    kept += [key for key in ("stored_channels",) if key in info]
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
    """Assignment, losses, gradients, overlaps and NMS, whole."""
    full = np.load(source / "loss_nms.npz")
    info = json.loads((source / "loss_nms.json").read_text())
    save("ops", {key: full[key] for key in full.files}, info)


def record_loss_v7(source: Path) -> None:
    """YOLOv7's assignments and losses, whole."""
    full = np.load(source / "loss_v7.npz")
    info = json.loads((source / "loss_v7.json").read_text())
    kept = ("kind", "anchors", "image_hw", "batch", "nc", "hyp", "assigned_per_level")
    cases = {
        case: {key: values[key] for key in kept}
        for case, values in info.items()
        if not case.startswith("_")
    }
    save("loss_v7", {key: full[key] for key in full.files}, cases)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the compact records in tests/golden.")
    parser.add_argument("sources", type=Path, nargs="+", help="folders with full records")
    GOLDEN.mkdir(exist_ok=True)
    for source in parser.parse_args().sources:
        names = {file.stem for file in source.glob("*.npz")}
        for name in names & set(NETWORKS):
            record_network(source, name, NETWORKS[name])
        for name in names & set(WHOLE):
            info = json.loads((source / f"{name}.json").read_text())
            save(name, dict(np.load(source / f"{name}.npz")), info)
        if names >= set(BLOCKS):
            record_blocks(source)
        if "loss_nms" in names:
            record_ops(source)
        if "loss_v7" in names:
            record_loss_v7(source)


if __name__ == "__main__":
    main()
