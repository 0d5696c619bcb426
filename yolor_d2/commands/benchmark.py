r"""Measure speed on this machine, and what else numbers in the documents rest on.

    python tools/benchmark.py data --config-file yolor_p6.yaml --train train.json images/
    python tools/benchmark.py data --config-file yolor_p6.yaml --train train.json images/ \
        --workers 0 4 8 --json output/data.json INPUT.CACHE ram
    python tools/benchmark.py step --config-file yolor_p6.yaml --size 640 --batch 4
    python tools/benchmark.py model --config-file yolor_p6.yaml --size 640 --batch 1 8 \
        --variants plain fused fused+channels_last fused+compile
    python tools/benchmark.py predict --config-file output/mine/config.yaml --images photos/ \
        MODEL.WEIGHTS output/mine/model_best.pth
    python tools/benchmark.py nms
    python tools/benchmark.py evaluation --config-file output/mine/config.yaml \
        --test test.json images/ MODEL.WEIGHTS output/mine/model_best.pth
    python tools/benchmark.py evaluation --generated 5000
    python tools/benchmark.py export --config-file output/mine/config.yaml --onnx model.onnx
    python tools/benchmark.py border --config-file output/mine/config.yaml \
        --test test.json images/ MODEL.WEIGHTS output/mine/model_best.pth
    python tools/benchmark.py gpu --output output/gpu
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yolor_d2.benchmark import border, data, evaluation, export, gpu, model, nms, predict, step

from .demo import CONFIG_KEY

COMMANDS = {
    "border": border,
    "data": data,
    "evaluation": evaluation,
    "export": export,
    "gpu": gpu,
    "model": model,
    "nms": nms,
    "predict": predict,
    "step": step,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--json", type=Path, help="write the report here too")
        command.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    # Pairs end a list in front of them, which would take them otherwise.
    words = list(map(str, sys.argv[1:] if argv is None else argv))
    first = next((i for i, word in enumerate(words) if CONFIG_KEY.fullmatch(word)), len(words))
    args = parser.parse_args(words[:first])
    args.opts += words[first:]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit status is 1 when something could not be measured."""
    args = parse_args(argv)
    report = COMMANDS[args.command].run(args)
    print(report.table())
    if args.json is not None:
        report.write_json(args.json)
    return 1 if report.failed else 0
