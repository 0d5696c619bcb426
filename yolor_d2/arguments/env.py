"""Versions and devices of this installation, to paste into a bug report.

yolor-d2 env
yolor-d2 env --json env.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .common import new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--json", type=Path, help="also write it to this file")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    """It reads nothing."""
