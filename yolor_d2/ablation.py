"""The paper's ablation tables: rows as configurations, and what may be said of measured rows."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from . import config_paths
from .config import list_keys, read_config
from .d2.config import CfgNode
from .engine.lengths import get_key
from .modeling.backbone import FIELDS, OTHER_KEYS, variant_from_config
from .networks.complexity import Complexity
from .tasks import TASKS

TABLES = "ablations/tables.json"
# Fewer seeds say nothing about how far chance alone moves a row.
MIN_SEEDS = 3


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: as the paper has it.
        config: name in the model zoo.
        paper: results that the paper prints, such as AP in percent; those it does not are absent.
            Parameters and GFLOPs are those of the trained form ("parameters", "gflops") or of that
            with norms fused ("fused_parameters", "fused_gflops"), whichever the paper counts.
    """

    label: str
    config: str
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one of this project's `own`; the first row is what the others are
    compared with."""

    name: str
    title: str
    rows: tuple[Row, ...]
    own: bool = False


def load_tables() -> dict[str, Table]:
    """All ablation tables by name: those of the paper, "1" to "8", "A1" and "A2", and "T"."""
    with open(config_paths.get_config_file(TABLES), encoding="utf-8") as file:
        tables = json.load(file)["tables"]
    return {
        name: Table(
            name,
            table["title"],
            tuple(Row(**row) for row in table["rows"]),
            table.get("own", False),
        )
        for name, table in tables.items()
    }


def get_table(name: str) -> Table:
    """A table by its name.

    Raises:
        ValueError: when there is no such table.
    """
    tables = load_tables()
    if name.upper() not in tables:
        raise ValueError(f"table is {name!r}, expected one of {list(tables)}")
    return tables[name.upper()]


# ---- What is trained


@dataclass(frozen=True)
class Scale:
    """How large the rows are trained.

    Attributes:
        recipe: configuration whose recipe is used, "" for the row's own.
        own_network: train the row's network; otherwise the recipe's, with the implicit knowledge
            and tasks of the row.
        options: KEY VALUE pairs on top.
    """

    recipe: str
    own_network: bool
    options: tuple[str, ...] = ()

    def configure(self, row: Row) -> CfgNode:
        """The configuration of a row at this scale, without data, seed and folder."""
        own = read_config(config_paths.get_config_file(row.config))
        if not self.recipe:
            return own
        cfg = read_config(config_paths.get_config_file(self.recipe))
        source, target = own.MODEL.YOLOR, cfg.MODEL.YOLOR
        if self.own_network:
            for key in NETWORK_KEYS:
                target[key] = source[key]
        variant = variant_from_config(own)
        for key in PLACES:
            # Spelled out, as another network would bring implicit knowledge of its own.
            target.IMPLICIT[key] = getattr(variant, key.lower())
        for key in ("STD", "PRIOR_FACTOR", "SPARSITY"):
            target.IMPLICIT[key] = source.IMPLICIT[key]
        for task in source.TASKS:
            for key in ("ENABLED", "IMPLICIT"):
                target.TASKS[task][key] = source.TASKS[task][key]
        cfg.merge_from_list(list(self.options))
        return cfg


# Keys of MODEL.YOLOR that describe a network, and those of IMPLICIT that describe its places.
NETWORK_KEYS = (*OTHER_KEYS, *FIELDS.values())
PLACES = ("FEATURE_ALIGNMENT", "PREDICTION_REFINEMENT", "TOP_DOWN", "BOTTOM_UP")


def _sized(size: int, **lengths: int) -> tuple[str, ...]:
    sizes = {
        "INPUT.MIN_SIZE_TRAIN": f"({size},)",
        "INPUT.MAX_SIZE_TRAIN": size,
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MAX_SIZE_TEST": size,
    }
    return tuple(str(part) for pair in (sizes | lengths).items() for part in pair)


def toy_values() -> list[str]:
    """KEY VALUE pairs of `Task.toy_values`, whether tasks are on or not."""
    return [
        str(word)
        for name, task in TASKS.items()
        for key, value in task.toy_values.items()
        for word in (f"MODEL.YOLOR.TASKS.{name.upper()}.{key}", value)
    ]


SCALES = {
    # A few minutes for all seeds of a row on two CPU cores. The recipe is that of a quick start, so
    # that so few iterations learn something.
    "toy": Scale(
        recipe="quick/fast_start.yaml",
        own_network=True,
        options=(
            *("MODEL.YOLOR.WIDTH_FACTOR", "0.25", "MODEL.YOLOR.DEPTH_FACTOR", "0.33"),
            *_sized(128),
            *("INPUT.AUGMENT.MOSAIC", "0.0"),
            # In iterations, so that rows of other networks see as much.
            *("SOLVER.MAX_EPOCHS", "0", "SOLVER.WARMUP_EPOCHS", "0"),
            *("SOLVER.CHECKPOINT_EPOCHS", "0", "TEST.EVAL_EPOCHS", "0"),
            *("SOLVER.MAX_ITER", "100", "SOLVER.WARMUP_ITERS", "10"),
            *("SOLVER.CHECKPOINT_PERIOD", "100", "TEST.EVAL_PERIOD", "100"),
            *toy_values(),
        ),
    ),
    # The small network on a small custom data set; meant for BCCD.
    "bccd": Scale(recipe="quick/ssss_320_cpu.yaml", own_network=False),
    # The row's own recipe on COCO.
    "coco": Scale(recipe="", own_network=True),
}


def difference(cfg: CfgNode, other: CfgNode) -> list[str]:
    """Keys in which two configurations differ; a file keeps no difference of tuples and lists."""

    def values(node: CfgNode) -> dict[str, str]:
        return {key: json.dumps(get_key(node, key)) for key in list_keys(node)}

    first, second = values(cfg), values(other)
    keys = first.keys() | second.keys()
    return sorted(key for key in keys if first.get(key) != second.get(key))


# ---- What may be said


def mean_and_spread(values: Sequence[float]) -> str:
    """ "mean ± standard deviation", the latter only of two values and more."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def verdict(baseline: dict[int, float], row: dict[int, float]) -> str:
    """What the seeds say about a row, and no more.

    Seeds are compared in pairs, as both rows of a pair see the same data in the same order. A row
    is called better or worse if all pairs agree and the mean difference exceeds twice its
    standard error.

    Args:
        baseline: AP by seed.
        row: the same of the row.
    """
    pairs = [row[seed] - baseline[seed] for seed in sorted(row.keys() & baseline.keys())]
    if len(pairs) < MIN_SEEDS:
        return f"{len(pairs)} seeds: no statement"
    mean = statistics.fmean(pairs)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    agree = all(pair > 0 for pair in pairs) or all(pair < 0 for pair in pairs)
    if not agree or abs(mean) <= 2 * error:
        return f"{mean:+.2f}, within the spread"
    return f"{mean:+.2f}, {'better' if mean > 0 else 'worse'} with every seed"


@dataclass
class Measured:
    """What was measured of a row.

    Attributes:
        cost: of the network as trained, for one image.
        ap: AP in percent by seed.
        other: further metrics by name, each by seed.
    """

    cost: Complexity
    ap: dict[int, float] = field(default_factory=dict)
    other: dict[str, dict[int, float]] = field(default_factory=dict)


def format_table(table: Table, measured: Sequence[Measured], scale: str) -> str:
    """The measured rows beside the paper's."""
    extra = list(dict.fromkeys(name for m in measured for name in m.other))
    rows = []
    for row, m in zip(table.rows, measured):
        compared = "baseline" if m is measured[0] else verdict(measured[0].ap, m.ap)
        rows.append(
            [
                row.label,
                row.paper.get("AP", "-"),
                mean_and_spread(list(m.ap.values())),
                compared,
                *(mean_and_spread(list(m.other.get(name, {}).values())) for name in extra),
                len(m.ap),
                f"{m.cost.parameters:,}",
                f"{m.cost.flops / 1e9:.4f}",
            ]
        )
    headers = [
        *("", "paper: AP on COCO", f"here ({scale}): AP", "against the first row"),
        *extra,
        *("seeds", "parameters", "GFLOPs"),
    ]
    origin = "(not in the paper)" if table.own else "of the paper"
    title = f"Table {table.name} {origin}: {table.title}"
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True)}"


def format_costs(table: Table, published: Sequence[Complexity]) -> str:
    """Parameters and FLOPs of the networks as published, with 80 classes, beside the paper's.

    The paper counts some rows as they are trained and others with norms fused: its number stands
    behind ours of the same form.
    """

    def paper(row: Row, name: str, form: str) -> str:
        return format(row.paper[name], form) if name in row.paper else "-"

    rows = [
        [
            row.label,
            f"{cost.parameters:,}",
            paper(row, "parameters", ",.0f"),
            f"{cost.fused_parameters:,}",
            paper(row, "fused_parameters", ",.0f"),
            f"{cost.flops / 1e9:.4f}",
            paper(row, "gflops", ".4f"),
            f"{cost.fused_flops / 1e9:.4f}",
            paper(row, "fused_gflops", ".4f"),
        ]
        for row, cost in zip(table.rows, published)
    ]
    headers = ["", "parameters", "paper", "norms fused", "paper", "GFLOPs", "paper"]
    headers += ["GFLOPs fused", "paper"]
    title = "The detectors as published, 80 classes"
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True)}"
