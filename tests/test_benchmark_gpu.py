"""tools/benchmark.py gpu, as far as it goes without a GPU."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from processes import run as run_python

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.arguments.benchmark import GPU_PARTS
from yolor_d2.benchmark import gpu
from yolor_d2.benchmark.gpu import (
    common,
    golden,
    nms,
    processes,
    record,
    step,
    suite,
    training,
)
from yolor_d2.benchmark.gpu.common import Findings, Setting, unless_too_large
from yolor_d2.benchmark.gpu.record import Part
from yolor_d2.commands import execute
from yolor_d2.d2.structures import Boxes, Instances

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def setting(tmp_path):
    """Of a dry run."""
    return Setting(torch.device("cpu"), tmp_path, REPOSITORY / "tests" / "golden", dry=True)


def dry_run(output, *options) -> int:
    """Exit status."""
    return execute("benchmark", ["gpu", "--dry-run", "--output", str(output), *options])


# ---- The command


@pytest.mark.slow
def test_a_dry_run_measures_every_part(tmp_path):
    command = ["tools/benchmark.py", "gpu", "--dry-run", "--output", tmp_path]
    done = run_python(command, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-4000:]
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("## On a GPU\n\n    yolor-d2 benchmark gpu --output")
    for name, part in gpu.PARTS.items():
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["dry_run"] and content["error"] is None
        assert content["outcome"] == ("left out" if name == "tests" else "measured")
        section = table.partition(f"### {part.title}\n")[2].partition("###")[0]
        assert section.lstrip().startswith("Dry run: the numbers mean nothing.")
        assert section.strip() in done.stdout
    detected = json.loads((tmp_path / "suppression.json").read_text())["rows"]
    assert {row["% as on the CPU"] for row in detected} == {100.0}
    losses = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert [row["run"] for row in losses] == ["float32", "bfloat16"]
    assert losses[0]["loss at 1"] == pytest.approx(losses[1]["loss at 1"], rel=0.1)
    (alone, *_) = json.loads((tmp_path / "processes.json").read_text())["rows"]
    assert alone["loss alone"] == pytest.approx(alone["loss with gloo"], rel=1e-5)


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def fails(setting, found):
        found.rows.append({"number": 0.5})
        raise RuntimeError("broken\nin two lines")

    def works(setting, found):
        assert setting.earlier["first"] == [{"number": 0.5}]
        found.rows.append({"number": 1e-5})
        found.leave_out("much", "it is late")

    parts = {"first": Part("First", fails, 1), "second": Part("Second", works, 1)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert dry_run(tmp_path) == 1
    first, second = (json.loads((tmp_path / f"{x}.json").read_text()) for x in parts)
    assert (first["outcome"], second["outcome"]) == ("failed", "measured")
    assert first["error"] == "RuntimeError: broken\nin two lines" and "fails" in first["trace"]
    assert first["rows"] == [{"number": 0.5}]
    table = (tmp_path / "table.md").read_text()
    assert "**Failed:**\n\n    RuntimeError: broken\n    in two lines\n\n| number" in table
    assert "| 0.50     |" in table and "| 1e-05    |" in table
    assert "- Left out: much: it is late.\n" in table
    printed = capsys.readouterr().out
    assert "### First" in printed and "### Second" in printed
    assert dry_run(tmp_path, "--parts", "second") == 1  # it asks for the first
    monkeypatch.setitem(parts, "second", Part("Second", lambda setting, found: None, 1))
    assert dry_run(tmp_path, "--parts", "second") == 0
    assert json.loads((tmp_path / "second.json").read_text())["outcome"] == "left out"
    assert "### First" not in (tmp_path / "table.md").read_text()


def test_the_command_line_names_the_parts():
    assert tuple(gpu.PARTS) == GPU_PARTS


def test_the_shares_fit_into_eight_minutes():
    assert sum(part.seconds for part in gpu.PARTS.values()) < gpu.LIMIT < 480


def test_a_part_may_use_what_those_before_it_have_left(monkeypatch):
    parts = {name: Part(name, lambda *_: None, 10) for name in "abc"}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.time_for("b", ["c"], left=25) == 15
    assert gpu.time_for("b", ["c"], left=12) == 10  # they have used too much
    assert gpu.time_for("c", [], left=4) == 4


def test_a_part_without_time_is_left_out(setting):
    late = record.run_part("a", Part("A", lambda *_: 1 / 0, 10), setting, seconds=-1.0)
    assert late.outcome == "left out" and late.error is None
    assert late.left_out == ["everything: the parts before it have used up the time"]


def test_without_a_gpu_the_option_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU: --dry-run"):
        execute("benchmark", ["gpu", "--output", str(tmp_path)])


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--parts has \['stp'\], expected some of \['golden'"):
        dry_run(tmp_path, "--parts", "step", "stp")
    with pytest.raises(ValueError, match="gpu takes no KEY VALUE pairs"):
        dry_run(tmp_path, "INPUT.FORMAT", "RGB")


# ---- What the parts have in common


def test_what_there_is_no_time_for_is_named():
    found = Findings(1000.0)
    assert list(found.while_time("ab")) == ["a", "b"] and not found.left_out
    for x in found.while_time("abc"):
        found.seconds = 0.0
        assert x == "a"
    assert found.left_out == ["b, c: no time was left"]


def test_a_batch_that_is_too_large_is_noted():
    def full():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    def cannot_address():
        raise RuntimeError("Expected canUse32BitIndexMath")

    found = Findings(1.0)
    assert unless_too_large(found, "float32", 1, full) is None
    assert unless_too_large(found, "float32", 2, cannot_address) is None
    assert found.left_out == [
        "float32, batch 1: CUDA out of memory. Tried to allocate 2 GiB.",
        "float32, batch 2: Expected canUse32BitIndexMath",
    ]
    with pytest.raises(RuntimeError, match="canUse32BitIndexMath"):
        unless_too_large(found, "float32", 1, cannot_address)
    assert unless_too_large(found, "float32", 1, int, "7") == 7


def test_tf32_is_as_before_afterwards():
    before = torch.backends.cudnn.allow_tf32
    with common.tf32(not before):
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 != before
    assert torch.backends.cudnn.allow_tf32 == before


# ---- Parts


def test_without_golden_records_they_are_left_out(tmp_path):
    assert dry_run(tmp_path, "--parts", "golden", "--golden", str(tmp_path / "none")) == 0
    content = json.loads((tmp_path / "golden.json").read_text())
    assert content["outcome"] == "left out" and "none' (--golden)" in content["left_out"][0]


@pytest.mark.heavy
def test_logits_beyond_the_tolerance_fail(setting, monkeypatch):
    found = Findings(100.0)
    monkeypatch.setattr(golden, "FLOAT32_FACTOR", 1e-3)
    with pytest.raises(ValueError, match="beyond the tolerance in float32: yolor_ssss_dwt"):
        golden.measure(setting, found)
    assert [row["type"] for row in found.rows] == ["float32", "bfloat16"]


def test_points_of_a_curve_by_hand():
    """Of 80 iterations 60 were done; the losses are their numbers, from 0."""
    found = training.curve(list(map(float, range(60))), 80)
    # Means of 0-19, 20-39 and 40-59.
    expected = {"loss at 1": 0, "loss at 20": 9.5, "loss at 40": 29.5, "loss at 60": 49.5}
    assert found == {**expected, "loss at 80": None}


@pytest.mark.heavy
def test_a_training_ends_in_time_and_is_evaluated(setting):
    cfg = training.training_config(setting)
    cfg.OUTPUT_DIR = str(setting.output / "run")
    found = Findings(0.0)
    losses, figures = training.run_training(cfg, found, until=0.0)
    assert len(losses) == 2 < cfg.SOLVER.MAX_ITER  # it ends behind the next iteration
    assert figures["AP"] >= 0


def test_stages_by_hand():
    names = [mark for stage in step.STAGES.values() for mark in stage]
    # In order of time; the loss ends where the backward pass begins, that where the optimiser does.
    times = dict(zip(dict.fromkeys(names), (1.0, 1.5, 2.0, 2.25, 3.0, 3.125, 4.0, 4.5)))
    marks = {"step begins": 0.0, **times, "step ends": 5.0}
    assert list(step.stage_columns([marks, marks]).items()) == [
        ("network, ms", 500),
        ("assignment and loss, ms", 250),
        ("backward, ms", 750),
        ("optimiser, ms", 125),
        ("average, ms", 500),
        ("rest, ms", 5000 - 2125),
    ]


class FakeEvent:
    """Stands for torch.cuda.Event: each is reached half a millisecond after the one before it."""

    now = 0.0

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.now = self.time = FakeEvent.now + 0.5

    def elapsed_time(self, end):
        return end.time - self.time


def test_marks_on_a_gpu_are_events_before_and_after_a_call(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    marks = step.Marks(torch.device("cuda"))
    owner = torch.nn.Linear(2, 3)
    marks.around(owner, "forward", "network")
    assert owner(torch.zeros(1, 2)).shape == (1, 3)
    assert list(marks.reached) == ["network begins", "network ends"]
    assert step.milliseconds(*marks.reached.values()) == 0.5


def test_waits_are_counted_by_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waits():
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    ((place, count),) = step.count_waits(waits).items()
    line = waits.__code__.co_firstlineno + 2
    assert place.endswith(f"tests/test_benchmark_gpu.py:{line}") and count == 2
    assert modes == ["warn", "default"]


def test_boxes_are_found_again_in_any_order():
    def instances(boxes, labels):
        labels = torch.tensor(labels, dtype=torch.int64)
        return Instances(
            (9, 9), pred_boxes=Boxes(torch.tensor(boxes).view(-1, 4)), pred_classes=labels
        )

    wanted = instances([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6], [3, 3, 7, 7]], [0, 1, 2, 3])
    # The second one moved by 0.04 px, the first one by 0.06, the third one of another class.
    found = instances([[1.04, 1, 5, 5], [0.06, 0, 4, 4], [2, 2, 6, 6], [3, 3, 7, 7]], [1, 0, 0, 3])
    assert nms.fraction_matched(wanted, found) == 0.5
    assert nms.fraction_matched(wanted, instances([], [])) == 0
    assert nms.fraction_matched(instances([], []), wanted) == 1


@pytest.mark.parametrize("other", [1.5, float("nan")])
def test_losses_that_differ_in_a_group_fail(setting, monkeypatch, other):
    monkeypatch.setattr(processes, "losses_of", lambda *_: [1.0, 1.0])
    monkeypatch.setattr(processes, "losses_in_group", lambda *_: [1.0, other])
    with pytest.raises(ValueError, match="not finite" if other != 1.5 else "differ by more than"):
        processes.measure(setting, Findings(100.0))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("test", "status"), [("def test_a(): pass", 0), ("def test_a(): assert 0", 1), ("", 5)]
)
def test_the_tests_that_need_a_gpu_are_run(tmp_path, monkeypatch, test, status):
    (tmp_path / "tests").mkdir()
    options = '[tool.pytest.ini_options]\nmarkers = ["gpu: needs a GPU"]\n'
    (tmp_path / "pyproject.toml").write_text(options)
    content = f"import pytest\n\n@pytest.mark.gpu\n{test}\n" if test else "def test_b(): pass\n"
    (tmp_path / "tests" / "test_it.py").write_text(content)
    monkeypatch.setattr(suite, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to import
    found = Findings(60.0)
    setting = Setting(torch.device("cpu"), tmp_path, tmp_path, dry=False)
    if status == 1:
        with pytest.raises(RuntimeError, match="1 failed"):
            suite.measure(setting, found)
    else:
        suite.measure(setting, found)
    (row,) = found.rows
    assert row["exit status"] == status
    assert row["last line"].startswith({0: "1 passed", 1: "1 failed", 5: "1 deselected"}[status])
    assert len(found.left_out) == (status == 5)
