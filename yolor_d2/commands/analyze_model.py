"""Parameters and FLOPs of the network that a configuration describes.

python tools/analyze_model.py --config-file configs/yolor_p6.yaml
python tools/analyze_model.py --config-file yolor_p6.yaml MODEL.YOLOR.NUM_CLASSES 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tabulate import tabulate

from yolor_d2.config import load_config
from yolor_d2.modeling.complexity import config_complexity


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument("--size", type=int, help="side of the square input; default: the config's")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    size = args.size or cfg.INPUT.MAX_SIZE_TEST
    rows = [
        (
            name,
            f"{cost.parameters:,}",
            f"{cost.fused_parameters:,}",
            f"{2 * cost.macs / 1e9:.4f}",
            f"{cost.flops / 1e9:.4f}",
        )
        for name, cost in config_complexity(cfg, size).items()
    ]
    headers = ["part", "parameters", "norms fused", "2 x MACs (G)", "FLOPs, the paper's way (G)"]
    title = f"{cfg.MODEL.YOLOR.VARIANT}, {cfg.MODEL.YOLOR.NUM_CLASSES} classes, {size} x {size}"
    print(title)
    print(tabulate(rows, headers, stralign="right", disable_numparse=True))
