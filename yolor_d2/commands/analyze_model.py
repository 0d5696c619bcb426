"""Parameters and FLOPs of the network that a configuration describes."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from yolor_d2.config import load_config
from yolor_d2.modeling.complexity import config_complexity
from yolor_d2.wording import counted

HEADERS = [
    "part",
    *("parameters", "norms fused", "folded"),
    *(
        "2 x MACs (G)",
        "FLOPs (G),\nthe paper's way",
        "FLOPs (G),\nnorms fused",
        "FLOPs (G),\nfolded",
    ),
]


def giga(operations: int) -> str:
    return f"{operations / 1e9:.4f}"


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    size = args.size or cfg.INPUT.MAX_SIZE_TEST
    trained, folded = config_complexity(cfg, size), config_complexity(cfg, size, folded=True)
    rows = [
        (
            name,
            f"{cost.parameters:,}",
            f"{cost.fused_parameters:,}",
            f"{folded[name].parameters:,}",
            giga(2 * cost.macs),
            giga(cost.flops),
            giga(cost.fused_flops),
            giga(folded[name].flops),
        )
        for name, cost in trained.items()
    ]
    classes = counted(cfg.MODEL.YOLOR.NUM_CLASSES, "class", "classes")
    print(f"{cfg.MODEL.YOLOR.VARIANT}, {classes}, {size} x {size}")
    print(tabulate(rows, HEADERS, stralign="right", disable_numparse=True))
    print("folded: as inference computes it, without norms, implicit knowledge and auxiliary heads")
