"""Measure speed on this machine, and what else numbers in the documents rest on."""

from __future__ import annotations

import argparse

from yolor_d2.benchmark import (
    border,
    cluster,
    data,
    evaluation,
    export,
    gpu,
    model,
    nms,
    predict,
    start,
    step,
)

MEASUREMENTS = {
    "border": border,
    "cluster": cluster,
    "data": data,
    "evaluation": evaluation,
    "export": export,
    "gpu": gpu,
    "model": model,
    "nms": nms,
    "predict": predict,
    "start": start,
    "step": step,
}


def main(args: argparse.Namespace) -> int:
    """Measure; the exit status is 1 when something could not be measured."""
    report = MEASUREMENTS[args.command].run(args)
    print(report.table())
    if args.json is not None:
        report.write_json(args.json)
    return 1 if report.failed else 0
