"""The paper's tables: rows that exist, scales, and statements no stronger than the seeds allow."""

import json
from functools import partial

import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime


from yolor_d2 import model_zoo
from yolor_d2.ablation import (
    SCALES,
    Measured,
    difference,
    format_costs,
    format_table,
    get_table,
    load_tables,
    mean_and_spread,
    verdict,
)
from yolor_d2.commands import execute, shell
from yolor_d2.commands.run_ablation import measure
from yolor_d2.config import read_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks.complexity import Complexity

TABLES = load_tables()


def test_all_tables_of_the_paper():
    assert list(TABLES) == [*"12345678", "A1", "A2", "T"]
    assert [name for name, table in TABLES.items() if table.own] == ["T"]
    counts = {name: len(table.rows) for name, table in TABLES.items()}
    assert counts == {
        **{"1": 2, "2": 2, "3": 5, "4": 4, "5": 5, "6": 4},
        **{"7": 4, "8": 3, "A1": 6, "A2": 9, "T": 9},
    }


def test_every_ablation_config_is_a_row():
    rows = {row.config for table in TABLES.values() for row in table.rows}
    names = {n for n in model_zoo.list_configs() if n.startswith(("ablations/", "multi_task/"))}
    assert names <= rows and rows <= set(model_zoo.list_configs())


@pytest.mark.parametrize(
    ("config", "place", "words"),
    [
        ("ifa_add", "feature_alignment", "add"),
        ("ifa_mul", "feature_alignment", "mul"),
        ("ifa_concat", "feature_alignment", "concat"),
        ("ipr_add", "prediction_refinement", "add"),
        ("ipr_mul", "prediction_refinement", "mul"),
        ("ifa_mul_per_anchor", "feature_alignment", "mul per_anchor"),
        ("ipr_mul_sizes", "prediction_refinement", "mul sizes"),
        ("ifa_add_network", "feature_alignment", "add network"),
        ("ifa_add_factorization", "feature_alignment", "add factorization"),
    ],
)
def test_a_row_differs_from_the_baseline_in_one_place(config, place, words):
    row = variant_from_config(model_zoo.get_config(f"ablations/{config}.yaml"))
    baseline = variant_from_config(model_zoo.get_config("yolov4_csp_fast.yaml"))
    changed = {k for k, v in vars(row).items() if v != getattr(baseline, k)}
    assert changed == {place} and getattr(row, place) == words


@pytest.mark.heavy
@pytest.mark.parametrize("row", TABLES["7"].rows, ids=lambda row: row.config)
def test_counts_and_flops_of_table_7(row):
    cfg = SCALES["coco"].configure(row)
    cost = measure(cfg, detector_only=True)
    assert cost.parameters == row.paper["parameters"]
    if "gflops" in row.paper:
        assert cost.flops / 1e9 == pytest.approx(row.paper["gflops"], rel=0.005)
    if cfg.MODEL.YOLOR.VARIANT.startswith("yolor"):
        # Less than 1/10,000 of the operations (section 5.7): one for each prediction.
        size = cfg.INPUT.MAX_SIZE_TEST
        strides = [8, 16, 32, 64] if size == 1280 else [8, 16, 32]
        refined = sum(255 * (size // stride) ** 2 for stride in strides)
        assert 0 < refined < cost.flops / 10_000


@pytest.mark.heavy
@pytest.mark.parametrize(
    "row", [*TABLES["A1"].rows, *TABLES["A2"].rows], ids=lambda row: row.config
)
def test_counts_and_flops_of_the_appendix(row):
    """Each row in the form that the paper counts: U5R5 with norms fused, YOLOR as it is trained."""
    cost = measure(SCALES["coco"].configure(row), detector_only=True)
    printed = row.paper
    assert ("parameters" in printed) != ("fused_parameters" in printed)
    assert ("gflops" in printed) != ("fused_gflops" in printed)
    if "parameters" in printed:
        assert cost.parameters == printed["parameters"]
    else:
        assert cost.fused_parameters == printed["fused_parameters"]
    # To the printed precision; the 1280 px rows of U5R5 are four times a rounded number at 640 px.
    if "fused_gflops" in printed:
        tolerance = 0.21 if row.label.startswith("U5R5") else 0.1
        assert cost.fused_flops / 1e9 == pytest.approx(printed["fused_gflops"], abs=tolerance)
        assert cost.flops / 1e9 != pytest.approx(printed["fused_gflops"], abs=0.04)
    else:
        assert cost.flops / 1e9 == pytest.approx(printed["gflops"], abs=0.11)


@pytest.mark.heavy
def test_the_costs_have_the_papers_figure_behind_the_form_that_it_counts():
    table = get_table("a1")
    costs = [measure(SCALES["coco"].configure(row), detector_only=True) for row in table.rows]
    _, header, _, *lines = format_costs(table, costs).splitlines()
    assert header.split("  ")[-2:] and "GFLOPs fused" in header
    cells = {line.split("  ")[0]: line[len(line.split("  ")[0]) :].split() for line in lines}
    assert cells["U5R5-S"] == [
        "7,276,605",
        "-",
        *["7,266,973"] * 2,
        "17.0600",
        "-",
        "17.0111",
        "17.0000",
    ]
    assert cells["SSS"][-4:] == ["17.9212", "17.9000", "17.8845", "-"]


def test_the_bccd_scale_keeps_the_network_and_moves_the_knowledge():
    for row in get_table("5").rows:
        cfg = SCALES["bccd"].configure(row)
        own = variant_from_config(model_zoo.get_config(row.config))
        used = variant_from_config(cfg)
        assert cfg.MODEL.YOLOR.VARIANT == "yolor_ssss_s2d"
        assert used.feature_alignment == own.feature_alignment
        assert used.prediction_refinement == own.prediction_refinement


def test_the_toy_scale_keeps_the_kind_of_network():
    cfg = SCALES["toy"].configure(get_table("8").rows[0])
    assert cfg.MODEL.YOLOR.VARIANT == "yolov4_p6_light" and cfg.MODEL.YOLOR.WIDTH_FACTOR == 0.25


def test_the_toy_scale_trains_the_rows_of_the_appendix():
    """Small networks of every kind of row, with and without implicit knowledge, give losses."""
    truth = Instances((128, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 30.0, 40.0]])))
    truth.gt_classes = torch.tensor([3])
    for row in (*get_table("A1").rows[:2], get_table("A2").rows[0]):
        cfg = SCALES["toy"].configure(row)
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
        losses = model([{"image": torch.zeros(3, 128, 128), "instances": truth}])
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        implicit = [name for name, _ in model.named_parameters() if name.endswith(".z")]
        assert bool(implicit) == row.config.endswith("_implicit.yaml")


def test_differences_are_named_and_files_keep_none(tmp_path):
    cfg = SCALES["toy"].configure(get_table("2").rows[0])
    path = tmp_path / "a.yaml"
    path.write_text(cfg.dump())
    assert difference(read_config(path), cfg) == []
    other = cfg.clone()
    other.SOLVER.MAX_ITER += 1
    assert difference(other, cfg) == ["SOLVER.MAX_ITER"]


# ---- What may be said


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({0: 11.0, 1: 12.0}, "2 seeds: no statement"),
        # Differences 1.0, 1.1, 0.9: mean 1, deviation 0.1, standard error 0.058.
        ({0: 11.0, 1: 13.1, 2: 12.9}, "+1.00, better with every seed"),
        ({0: 9.0, 1: 10.9, 2: 11.1}, "-1.00, worse with every seed"),
        # 3, 0.1, 0.2: all above, but mean 1.1 is less than twice its error of 0.95.
        ({0: 13.0, 1: 12.1, 2: 12.2}, "+1.10, within the spread"),
        # 1, 1, -0.1: not all agree.
        ({0: 11.0, 1: 13.0, 2: 11.9}, "+0.63, within the spread"),
        ({0: 10.0, 1: 12.0, 2: 12.0}, "+0.00, within the spread"),
    ],
)
def test_a_statement_needs_seeds_that_agree(row, expected):
    assert verdict({0: 10.0, 1: 12.0, 2: 12.0}, row) == expected


def test_mean_and_spread():
    assert mean_and_spread([]) == "-"
    assert mean_and_spread([1.234]) == "1.23"
    assert mean_and_spread([1.0, 3.0]) == "2.00 ± 1.41"


def test_a_table_has_the_papers_figures_beside():
    cost = Complexity(
        parameters=12_345, fused_parameters=0, macs=0, flops=2_000_000_000, fused_flops=0
    )
    rows = [Measured(cost, {0: 10.0, 1: 12.0, 2: 14.0}), Measured(cost, {0: 10.5})]
    text = format_table(get_table("2"), rows, "toy")
    assert "baseline  47.8" in text and "12.00 ± 2.00" in text
    assert "1 seeds: no statement" in text and "12,345" in text and "2.0000" in text


# ---- The command


def test_wrong_arguments_are_named(capsys):
    assert shell.run(partial(execute, "run_ablation"), ["9"]) == 1
    assert "table is '9', expected one of ['1'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        execute("run_ablation", ["2", "--scale", "bccd"])
    assert "--train and --val" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_from_end_to_end(tmp_path, tmp_path_factory):
    lengths = ("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "TEST.EVAL_PERIOD", 3)
    command = ("2", "--seeds", 1, "--output", tmp_path, *lengths)
    command += ("MODEL.YOLOR.WIDTH_FACTOR", 0.125)
    # The trainings, too, are started by it in processes of their own.
    python = processes.write_program(tmp_path_factory.mktemp("bin"), "python")

    def run(*args):
        return processes.run(
            ["tools/run_ablation.py", *args],
            cwd=processes.REPOSITORY,
            before=f"import sys; sys.executable = {str(python)!r}",
        )

    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "Table 2 of the paper" in done.stdout and "1 seeds: no statement" in done.stdout
    results = sorted(tmp_path.glob("toy/*/seed0/results.json"))
    assert [path.parents[1].name for path in results] == ["ipr_add", "yolov4_csp_fast"]
    assert "bbox/AP" in json.loads(results[0].read_text())

    # Finished rows are not trained again; a row that was not, is.
    results[0].unlink()
    kept = results[1].stat().st_mtime_ns
    again = run(*command)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert results[1].stat().st_mtime_ns == kept and results[0].is_file()

    # Other settings in the same folder would mix what does not belong together.
    other = run(*command, "SOLVER.BASE_LR", 0.5)
    assert other.returncode == 1 and "SOLVER.BASE_LR" in other.stderr
