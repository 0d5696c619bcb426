"""Parameters and FLOPs of the network that a configuration describes."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from yolor_d2.config import load_config
from yolor_d2.modeling.complexity import config_complexity
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
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
    classes = counted(cfg.MODEL.YOLOR.NUM_CLASSES, "class", "classes")
    title = f"{cfg.MODEL.YOLOR.VARIANT}, {classes}, {size} x {size}"
    print(title)
    print(tabulate(rows, headers, stralign="right", disable_numparse=True))
